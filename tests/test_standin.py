"""The stand-in itself: its answers are what the roles can use, and the same for the same request."""

import json
import random
import urllib.request
from collections import Counter

import pytest

from aloe_jax.conversation import Persona
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.roles import Cast
from datagen.pool.similarity import Novelty
from tests.standin import running
from tests.standin.answers import BAD_ANSWERS, answer, personality, profile
from tests.standin.faults import TRANSIENT, Faults
from tests.standin.vectors import vector


class Direct:
    """Answers as the stand-in does, without a server; `kinds` counts what it answered."""

    name = "direct"

    def __init__(self, model="", bad=0.0):
        self.model, self.bad, self.kinds = model, bad, Counter()

    def complete(self, request):
        made = answer(request.system, request.prompt, request.key(self.name), self.model, self.bad)
        self.kinds[made.kind] += 1
        return Completion(made.text)


PERSONA = Persona(id="p-t", profile=profile(random.Random(1)), personality=personality(random.Random(1)))
SAID = [{"role": "user", "content": "Hello there."}]


@pytest.fixture
def play(tmp_path):
    """A cast that is played by one language model."""
    with Ledger(tmp_path / "journal") as ledger:
        yield lambda llm: Cast(RolesSettings(), ledger, model=lambda role, name: llm)


def test_every_role_can_use_its_answers(play):
    llm = Direct()
    cast = play(llm)
    profiles, personalities = cast.write_profiles(["An example."], 20, 1), cast.write_personalities(["Example."], 20, 1)
    assert len(set(profiles)) == len(set(personalities)) == 20
    messages = {cast.user_message(PERSONA, [], seed) for seed in range(30)}
    replies = {cast.reply(SAID, None, seed) for seed in range(30)}
    assert len(messages) > 25 and len(replies) > 25
    early, late = cast.infer(PERSONA, ["One."], 1), cast.infer(PERSONA, ["Message."] * 9, 1)
    assert early[0] in PERSONA.profile and late[0] in PERSONA.profile
    assert len(early[0]) < len(late[0])
    assert {cast.verify(PERSONA, SAID, "a", "b", seed) for seed in range(20)} == {0, 1}
    assert {cast.judge(PERSONA, SAID, "a", seed).rating for seed in range(60)} == {1, 2, 3, 4, 5}
    assert set(llm.kinds) == {"ok"}


def test_a_repair_question_is_answered_well(play):
    llm = Direct("badjson-once")
    assert play(llm).user_message(PERSONA, [], 1)
    assert llm.kinds == {"garbage": 1, "ok": 1}


def test_bad_answers_follow_from_the_id_alone():
    kinds = [answer("", "", str(number), bad=0.3).kind for number in range(2000)]
    assert kinds == [answer("", "", str(number), bad=0.3).kind for number in range(2000)]
    counts = Counter(kinds)
    assert 0.25 < 1 - counts["ok"] / 2000 < 0.35
    assert min(counts[kind] for kind in BAD_ANSWERS) > 100


def test_faults_of_the_way_are_drawn_anew_for_every_attempt():
    faults = Faults(0.3, seed=1)
    counts = Counter(faults.next("m", "id") for _ in range(2000))
    assert 0.25 < 1 - counts[None] / 2000 < 0.35
    assert min(counts[kind] for kind in TRANSIENT) > 50


def test_personas_are_no_near_copies():
    for write, kind in ((profile, "profiles"), (personality, "personalities")):
        texts = [write(random.Random(f"{kind} {number}")) for number in range(200)]
        accepted, refused = Novelty(0.6, kind=kind).filter(texts)
        assert len(accepted) == 200, refused


def test_vectors_of_like_texts_lie_near():
    def cosine(first, second):
        return sum(a * b for a, b in zip(vector(first), vector(second), strict=True))

    one, other = profile(random.Random(1)), profile(random.Random(2))
    assert cosine(one, one) == pytest.approx(1.0, abs=1e-3)
    assert cosine(one, one.replace("years", "summers")) > 0.9
    assert cosine(one, other) < 0.7


def test_embeddings_and_token_counts_over_http(monkeypatch):
    from google import genai
    from google.genai import types

    with running() as server:
        client = genai.Client(
            vertexai=False,
            api_key="k",
            http_options=types.HttpOptions(base_url=server.url, api_version="v1beta"),
        )
        found = client.models.embed_content(
            model="gemini-embedding-001",
            contents=[types.Content(parts=[types.Part(text=text)]) for text in ("one", "two")],
            config=types.EmbedContentConfig(output_dimensionality=64),
        )
        assert [one.values for one in found.embeddings] == [vector("one", 64), vector("two", 64)]
        assert client.models.count_tokens(model="m", contents="x" * 40).total_tokens == 10


def test_the_same_request_is_answered_alike_by_another_server():
    body = json.dumps({"contents": [{"parts": [{"text": 'Answer with a JSON object: {"rating": 1 to 5}'}]}]}).encode()
    texts = []
    for _ in range(2):
        with running() as server:
            request = urllib.request.Request(
                f"{server.url}/v1beta/models/m:generateContent",
                body,
                {"x-goog-api-key": "k", "X-Request-Id": "an id", "Content-Type": "application/json"},
            )
            texts.append(urllib.request.urlopen(request).read())
            shown = server.show()
            assert (shown["requests"], shown["peak"], shown["in_flight"]) == (1, 1, 0)
    assert texts[0] == texts[1]
