from tests.hostile.people.house import house

__all__ = ["house"]
