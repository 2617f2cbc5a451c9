"""Vectors other than words: embedded once, reached like other Gemini models, refused with what to do."""

import sys
import types

import numpy as np
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.llm.settings import RolesSettings
from datagen.pool.embeddings import Embeddings, Words, vectors_name, vectors_of
from datagen.pool.growth import grow
from datagen.settings import DatagenSettings, PersonasSettings
from tests.standin import running

NURSE = "A woman of 34. She works night shifts as a nurse in Bergen and keeps two tortoises."
COPY = NURSE.replace("34", "35")
BAKER = "A man of 58. He owns a bakery near the harbour of Porto and plays the accordion."


@pytest.fixture(scope="module")
def server():
    with running(retry_after=0) as started:
        yield started


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "secret-of-mine")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


@pytest.fixture
def no_wait(monkeypatch):
    monkeypatch.setattr("aloe_jax.llm.retry.FIRST_WAIT", 0.001)


def wanting(server=None, role=None, **personas):
    reached = {"provider": "gemini", "model": "ok", "endpoint": server and server.url, **(role or {})}
    return DatagenSettings(
        output="unused",
        personas=PersonasSettings(**{"vectors": "gemini", **personas}),
        roles=RolesSettings.model_validate({"persona_writer": reached}),
    )


def embedding_calls(server):
    recent = server.show(clear=True)["recent"]
    assert all("mbed" in seen["path"] for seen in recent)
    return recent


def test_gemini_embeds_in_batches_and_never_twice(server, ledger, key):
    server.show(clear=True)
    texts = [NURSE, COPY, BAKER, *(f"Person number {k} of many." for k in range(120))]
    rows = vectors_of(wanting(server), ledger).transform(texts)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows[0] @ rows[1] > 0.9
    assert rows[0] @ rows[2] < 0.6
    calls = embedding_calls(server)
    assert [len(call["body"]["requests"]) for call in calls] == [100, 23]
    asked = calls[0]["body"]["requests"][0]
    assert asked["content"]["parts"] == [{"text": NURSE}]
    assert asked["taskType"] == "SEMANTIC_SIMILARITY"
    assert "gemini-embedding-001" in calls[0]["path"]
    again = vectors_of(wanting(server), ledger).transform([BAKER, NURSE, BAKER])
    np.testing.assert_array_equal(again, rows[[2, 0, 2]])
    assert embedding_calls(server) == []
    # Another model is another space.
    vectors_of(wanting(server, vector_model="gemini-embedding-2"), ledger).transform([NURSE, BAKER])
    newer = embedding_calls(server)
    assert [len(call["body"]["requests"]) for call in newer] == [2]
    assert "taskType" not in newer[0]["body"]["requests"][0]


def test_a_pool_is_filtered_by_embeddings_and_resumes_without_a_call(server, ledger, key):
    settings = wanting(server, similarity=0.8)

    def write(examples, count, seed):
        return [COPY, BAKER.replace("Porto", "Faro"), f"Somebody new {seed} sails alone around islands {seed}."]

    pool = grow(ledger, "profiles", [NURSE, BAKER], 4, settings, write=write)
    assert pool.members[:2] == [NURSE, BAKER]
    assert pool.refused["similar to a member"] == 2 * pool.calls
    server.show(clear=True)
    assert grow(ledger, "profiles", [NURSE, BAKER], 4, settings, write=None) == pool
    assert grow(ledger, "profiles", [NURSE, BAKER], 5, settings, write=write).members[:4] == pool.members
    assert all(len(call["body"]["requests"]) <= 1 for call in embedding_calls(server))


def test_overloaded_servers_are_asked_again_and_counted(server, ledger, key, no_wait):
    rows = vectors_of(wanting(server, vector_model="503x2"), ledger).transform([NURSE])
    assert rows.shape[0] == 1
    assert ledger.faults() == {"503x2/vectors": {"503 Service Unavailable": 2}}
    with pytest.raises(UnavailableError, match=r"^personas\.vectors: 429 \(gemini\): no answer in 3 attempts"):
        vectors_of(wanting(server, {"attempts": 3}, vector_model="429"), ledger).transform([NURSE])


@pytest.mark.parametrize(
    ("secret", "model", "told"),
    [
        ("wrong", None, r"^personas\.vectors: gemini-embedding-001 \(gemini\): 400 .* GEMINI_API_KEY$"),
        ("forbidden", None, r"'\[key\]' is refused.*GEMINI_API_KEY$"),
        ("fine", "unknown", r"404 Not Found.*; check personas\.vector_model$"),
        ("fine", "400", r"400 Bad Request"),
    ],
)
def test_what_no_attempt_will_mend_is_told_without_the_key(server, ledger, monkeypatch, secret, model, told):
    monkeypatch.setenv("GEMINI_API_KEY", secret)
    with pytest.raises(AloeError, match=told) as caught:
        vectors_of(wanting(server, vector_model=model), ledger).transform([NURSE])
    assert "forbidden" not in str(caught.value)


def test_a_missing_key_is_told_before_any_call(ledger, monkeypatch):
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "MY_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(AloeError, match=r"^personas\.vectors: .* GEMINI_API_KEY or GOOGLE_API_KEY, or use .*=words"):
        vectors_of(wanting(), ledger)
    with pytest.raises(AloeError, match="environment variable MY_KEY, or use"):
        vectors_of(wanting(role={"key_variable": "MY_KEY"}), ledger)


def test_a_writer_of_another_provider_does_not_lend_its_server(ledger, key):
    settings = wanting(role={"provider": "openai", "endpoint": "http://127.0.0.1:9", "key_variable": "UNSET"})
    assert isinstance(vectors_of(settings, ledger), Embeddings)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([[1.0, 0.0]], r"returned 1 vectors of lengths \[2\] for 2 texts"),
        ([[1.0, 0.0], [1.0]], r"returned 2 vectors of lengths \[1, 2\] for 2 texts"),
        ([[1.0, 0.0], [0.0, 0.0]], "no direction in the vector of 'A man of 58"),
        ([[float("nan"), 0.0], [0.0, 1.0]], "no direction in the vector of 'A woman of 34"),
    ],
)
def test_bad_vectors_are_refused_before_they_are_kept(ledger, rows, told):
    with pytest.raises(AloeError, match=told):
        Embeddings("odd", lambda texts: rows, ledger).transform([NURSE, BAKER])
    made = Embeddings("odd", lambda texts: [[3.0, 4.0]] * len(texts), ledger).transform([NURSE, BAKER])
    np.testing.assert_allclose(made, [[0.6, 0.8]] * 2, rtol=1e-6)


def test_sentence_transformers_are_asked_for_by_name(ledger):
    with pytest.raises(AloeError, match="run `pip install sentence-transformers`"):
        vectors_of(wanting(vectors="sentence-transformers"), ledger)


def test_sentence_transformers_load_once_and_only_for_new_texts(ledger, monkeypatch):
    loaded = []

    class SentenceTransformer:
        def __init__(self, model):
            if model == "missing":
                raise OSError("missing is not a local folder\nand is not a valid model identifier")
            loaded.append(model)

        def encode(self, texts, show_progress_bar):
            return np.array([[len(text), 1.0] for text in texts], np.float32)

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    settings = wanting(vectors="sentence-transformers")
    for _ in range(2):
        vectors = vectors_of(settings, ledger)
        assert vectors.transform([NURSE, BAKER]).shape == (2, 2)
        vectors.transform([COPY, NURSE])
    assert loaded == ["all-MiniLM-L6-v2"]
    with pytest.raises(AloeError, match=r"vector_model: missing cannot be loaded \(missing is not a local folder and"):
        vectors_of(wanting(vectors="sentence-transformers", vector_model="missing"), ledger).transform([NURSE])


def test_words_are_the_default_and_have_no_model(ledger):
    assert isinstance(vectors_of(DatagenSettings(output="unused"), ledger), Words)
    assert vectors_name(wanting(vector_model="mine")) == "gemini/mine"
    with pytest.raises(AloeError, match=r"^personas\.vector_model: mine is used with"):
        vectors_of(wanting(vectors="words", vector_model="mine"), ledger)


def test_the_threshold_of_words_is_refused_for_embeddings(ledger, key):
    with pytest.raises(AloeError, match=r"^personas\.similarity: .* run `python -m datagen calibrate --config FILE`"):
        grow(ledger, "profiles", [NURSE], 2, wanting(), write=None)
