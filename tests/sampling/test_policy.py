"""One of our models as the responder: replies by seed and conversation alone, asked from many threads."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.protocol import Request
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.sampling.policy import Policy
from tests.sampling.tiny import saved_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("policy"))


def policy(directory, **settings):
    return Policy(RoleSettings.model_validate({"provider": "policy", "model": str(directory)} | settings))


def request(seed: int, hinted: bool = False, words: int = 1, temperature: float = 1.0) -> Request:
    history = [{"role": "user", "content": "user words " * words}]
    inputs = {"history": history, "hinted": hinted}
    return Request("responder", inputs, "be kind", "prompt", {}, temperature, seed)


def test_a_reply_depends_on_its_seed_and_conversation_alone(directory):
    alone, together = policy(directory, max_output_tokens=64), policy(directory, max_output_tokens=64)
    asked = [request(seed, hinted=seed % 2 == 0, words=1 + seed % 3) for seed in range(12)]
    one_by_one = [alone.complete(each) for each in asked]
    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(together.complete, asked)) == one_by_one
    finished = [completion for completion in one_by_one if completion.outcome == "ok"]
    assert finished and len({completion.text for completion in one_by_one}) == 12
    for completion in finished:
        assert json.loads(completion.text)["reply"]
        assert completion.input_tokens > 0 and completion.output_tokens > 1


def test_the_hint_is_seen_and_lengthens_the_prompt(directory):
    model = policy(directory, max_output_tokens=64)
    plain, hinted = (model.complete(request(3, hinted=hinted)) for hinted in (False, True))
    assert hinted.input_tokens > plain.input_tokens


def test_what_does_not_fit_or_finish_is_an_outcome(directory):
    assert policy(directory, max_output_tokens=2).complete(request(0, words=8)).outcome == "truncated"
    completion = policy(directory, max_output_tokens=100).complete(request(0, words=100))
    assert completion.outcome == "empty" and "context leaves 91" in completion.detail


def test_no_model_and_another_role_are_refused(directory, tmp_path):
    with pytest.raises(AloeError, match=r"roles\.responder\.model: .* holds neither config\.json"):
        policy(tmp_path)
    with pytest.raises(AloeError, match="policy plays the responder only"):
        policy(directory).complete(Request("judge", {}, "", "", {}, 0.0, 0))
