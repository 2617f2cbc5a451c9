"""A judge that rewards length alone."""

import json

from aloe_jax.llm.protocol import Completion


class Wordy:
    """Rates a reply by its words, whatever they are."""

    name = "wordy"

    def __init__(self, role=None):
        pass

    def complete(self, request):
        words = len(request.inputs["reply"].split())
        return Completion(json.dumps({"reason": f"{words} words", "rating": min(5, 1 + words // 4)}))
