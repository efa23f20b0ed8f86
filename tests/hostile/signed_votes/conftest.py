from tests.hostile.signed_votes.hands import hands, policy, root

__all__ = ["hands", "policy", "root"]
