"""What similarity is measured on: hashed words, or the embeddings of a model."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aloe_jax.errors import AloeError
from aloe_jax.llm.access import Access
from aloe_jax.llm.failures import TransientError, settled, translated
from aloe_jax.llm.genai import client, meaning
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.retry import Patience
from aloe_jax.llm.settings import RoleSettings
from datagen.settings import DatagenSettings

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sentence_transformers import SentenceTransformer


DEFAULT_MODELS = {"gemini": "gemini-embedding-001", "sentence-transformers": "all-MiniLM-L6-v2"}
_BATCH = 100  # texts that the Gemini API embeds in one call

Embed = Callable[[list[str]], "Sequence[Sequence[float]] | np.ndarray"]


class Vectors(Protocol):
    """Texts as rows of unit length, so that the product of two rows is their cosine similarity."""

    def transform(self, texts: Sequence[str]) -> np.ndarray | csr_matrix:
        """A dense float32 array or a sparse CSR matrix, [len(texts), D]."""
        ...


class Words:
    """Hashed words and pairs of words, English stop words left out; sparse.

    Nothing is fitted, so an old vector never changes. A text without content words is a row of zeros.
    """

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._vectorizer = HashingVectorizer(stop_words="english", ngram_range=(1, 2), n_features=2**18)

    def transform(self, texts: Sequence[str]) -> csr_matrix:
        """A CSR matrix, [len(texts), 262144]."""
        return self._vectorizer.transform(texts)


class Embeddings:
    """The vectors of a model, every text embedded once: they are kept in the journal under the model's `name`."""

    def __init__(self, name: str, embed: Embed, ledger: Ledger, batch: int = _BATCH):
        self.name = name
        self._embed, self._ledger, self._batch = embed, ledger, batch

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 [len(texts), D]. Raises AloeError when the model returns what are no vectors for these texts."""
        rows = self._ledger.vectors(self.name, texts, self._checked, self._batch)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _checked(self, texts: list[str]) -> list[list[float]]:
        """Embed, and look before anything is kept: a bad vector in the journal would stay there."""
        made = self._embed(texts)
        if len(made) != len(texts) or len({len(row) for row in made}) > 1:
            sizes = sorted({len(row) for row in made})
            raise AloeError(f"{self.name}: returned {len(made)} vectors of lengths {sizes} for {len(texts)} texts")
        rows = np.asarray(made, np.float32)
        bad = ~(np.isfinite(rows).all(axis=1) & rows.any(axis=1))
        if bad.any():
            raise AloeError(f"{self.name}: no direction in the vector of {texts[int(bad.argmax())][:80]!r}")
        return rows.tolist()


def vectors_name(settings: DatagenSettings) -> str:
    """What names the vectors that the settings ask for: "words", or the kind and its model."""
    wanted = settings.personas
    if wanted.vectors == "words":
        if wanted.vector_model is not None:
            raise AloeError(
                f"personas.vector_model: {wanted.vector_model} is used with personas.vectors=gemini or "
                "sentence-transformers, not with words; leave it out or change personas.vectors"
            )
        return "words"
    return f"{wanted.vectors}/{wanted.vector_model or DEFAULT_MODELS[wanted.vectors]}"


def vectors_of(settings: DatagenSettings, ledger: Ledger) -> Vectors:
    """The vectors that the settings ask for. Raises AloeError when they cannot be had: no key, nothing installed."""
    name = vectors_name(settings)
    kind, _, model = name.partition("/")
    if kind == "words":
        return Words()
    if kind == "sentence-transformers":
        return Embeddings(name, _sentence_transformers(model), ledger)
    role = _embedding_role(settings, model)
    # Vertex AI embeds one text in a call.
    return Embeddings(name, _gemini(role, ledger), ledger, _BATCH if role.project is None else 1)


# ---------------------------------------------------------------- Gemini


def _embedding_role(settings: DatagenSettings, model: str) -> RoleSettings:
    """The embedding model, reached as the persona writer is when that is Gemini, too."""
    writer = settings.roles.persona_writer
    way = writer if writer.entry.google else RoleSettings()
    return RoleSettings(
        provider="genai",
        model=model,
        endpoint=way.endpoint,
        key_variable=way.key_variable,
        project=way.project,
        location=way.location,
        timeout=way.timeout,
        attempts=way.attempts,
        longest_wait=way.longest_wait,
    )


class _Access(Access):
    """Speaks of the settings of the vectors instead of a role's."""

    def message(self, text: str) -> str:
        return f"personas.vectors: {self.role.model} (gemini): {self.scrub(text)}"

    def refusal(self, status: int, text: str) -> AloeError:
        if status == HTTPStatus.NOT_FOUND:
            return AloeError(self.message(f"404 Not Found: {text.rstrip(' .')}") + "; check personas.vector_model")
        return super().refusal(status, text)


def _gemini(role: RoleSettings, ledger: Ledger) -> Embed:
    variables = (role.key_variable,) if role.key_variable else role.entry.key_variables
    if role.project is None and not any(os.environ.get(variable) for variable in variables):
        raise AloeError(
            f"personas.vectors: gemini needs a key; set the environment variable {' or '.join(variables)}, or use "
            "personas.vectors=words, which needs none"
        )
    access = _Access(role, "persona_writer")
    reached = client(role, access)
    patience = Patience(role.attempts, longest=role.longest_wait, setting="roles.persona_writer.longest_wait")

    def once(texts: list[str]) -> list[list[float]]:
        from google.genai import types

        settings = types.EmbedContentConfig(http_options=types.HttpOptions(timeout=round(role.timeout * 1000)))
        if not str(role.model).startswith("gemini-embedding-2"):  # which takes no kind of task
            settings.task_type = "SEMANTIC_SIMILARITY"
        # A Content for each text: several plain strings are one text to the newer models.
        contents = [types.Content(parts=[types.Part(text=text)]) for text in texts]
        answer = translated(
            lambda: reached.models.embed_content(model=str(role.model), contents=contents, config=settings),
            lambda error: settled(access, meaning(access, error)),
        )
        return [one.values or [] for one in answer.embeddings or []]

    def failed(error: TransientError) -> None:
        ledger.count_fault(str(role.model), "vectors", error.fault)

    def embed(texts: list[str]) -> list[list[float]]:
        return patience.call(lambda: once(texts), f"personas.vectors: {role.model} (gemini)", failed)[0]

    return embed


# ---------------------------------------------------------------- sentence-transformers


def _sentence_transformers(model: str) -> Embed:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise AloeError(
            "personas.vectors: sentence-transformers is not installed; run `pip install sentence-transformers` "
            "(it brings torch), or use personas.vectors=words or gemini"
        )
    loaded: list[SentenceTransformer] = []  # once, and only when a text is not in the journal

    def embed(texts: list[str]) -> np.ndarray:
        if not loaded:
            from sentence_transformers import SentenceTransformer

            try:
                loaded.append(SentenceTransformer(model))
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise AloeError(f"personas.vector_model: {model} cannot be loaded ({reason})") from None
        return loaded[0].encode(texts, show_progress_bar=False)

    return embed
