from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import Completion
from flotilla.llm.storable_calls import escape_unstorable


def test_a_stored_answer_says_whether_its_tokens_are_estimated() -> None:
    usage = TokenUsage(input_tokens=3, output_tokens=2, estimated=True)
    assert escape_unstorable(Completion(text="a", model="m", usage=usage)).usage == usage
