"""Token trees by their definition: every path is rendered whole, whatever its length. Slow, and with nothing to it."""

from __future__ import annotations

import hashlib
from functools import partial

from aloe_jax.data.laying import LaidOut, digested
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.trees import Node, Pair, TokenTree
from tests.data.prepared import path_messages


class WholePaths(ChatTemplate):
    """A chat template that lays out every exchange."""

    def laid_out(self, talk, longest=None, system_in_user=False):
        trees = self._whole(talk, system_in_user)
        return LaidOut(talk, trees, len(trees) > 1, [], set(), 0.0, 0, [], {})

    def _whole(self, talk, system_in_user):
        numbers = range(len(talk.exchanges))
        prompts, replies, mark = self._all_texts(talk, system_in_user)
        ends = {place: self._renderer.reply_end(reply) for place, reply in replies.items()}
        for (number, which), reply in replies.items():
            if not reply.startswith(prompts[number]) or ends[number, which] <= len(prompts[number]):
                raise UnstableTemplateError(f"{self._renderer.name}: turn {number + 1}")
        answers = {}
        for number in numbers:
            if (place := talk.exchanges[number].follows) is not None:
                answers.setdefault(place, []).append(number)
        starts = [0] * len(numbers)
        answering = [(place, number) for place, after in answers.items() for number in after]
        stable = all(prompts[number].startswith(replies[place][: ends[place]]) for place, number in answering)
        if stable:
            for place, number in answering:
                starts[number] = ends[place]
        pieces = self._all_pieces(prompts, replies, starts, ends, mark)
        if stable:
            return [self._joined(talk, pieces, 0, answers, talk.id)]
        judged = (n for n in numbers if any(reply.branch is not None for reply in talk.exchanges[n].replies))
        return [self._joined(talk, pieces, number, {}, f"{talk.id}/{number}") for number in judged]

    def _all_texts(self, talk, system_in_user):
        places = [(n, which) for n, exchange in enumerate(talk.exchanges) for which in range(len(exchange.replies))]
        answered = [self._renderer.system_folded(path_messages(talk, *place), system_in_user) for place in places]
        every, mark = self._renderer.mark([message for path in answered for message in path])
        marked = iter(every)
        answered = [[next(marked) for _ in path] for path in answered]
        paths = dict(zip(places, answered, strict=True))
        prompts = self._renderer.prompts([paths[number, 0][:-1] for number in range(len(talk.exchanges))])
        return prompts, dict(zip(places, self._renderer.answered(answered), strict=True)), mark

    def _all_pieces(self, prompts, replies, starts, ends, mark):
        pieces = []
        for number, prompt in enumerate(prompts):
            start = starts[number]
            ids = self._encode([prompt[start:]], mark, "token" if start else "start")[0]
            pieces.append((ids, self._opening(prompt, start, ids), [], []))
        for (number, which), reply in replies.items():
            _, (opened, opening), scored, trails = pieces[number]
            bare = reply[len(prompts[number]) : ends[number, which]]
            whole = self._encode([opened + bare], mark)[0]
            merges = whole[: len(opening)] != opening
            scored.append(self._encode([bare], mark, "text")[0] if merges else whole[len(opening) :])
            trails.append(self._encode([reply[ends[number, which] :]], beginning="token")[0])
        return pieces

    def _joined(self, talk, pieces, first, answers, tree_id):
        nodes, found, waiting = [], {}, []

        def ask(number, parent, before):
            depth = nodes[parent].turn + 1 if nodes else len(path_messages(talk, number, 0)) // 2 - 1
            nodes.append(Node(parent, pieces[number][0], turn=depth))
            asked, prompt = digested(before, pieces[number][0]), len(nodes) - 1
            for which in reversed(range(len(pieces[number][2]))):
                waiting.append(partial(answer, (number, which), prompt, asked))

        def answer(place, prompt, asked):
            number, which = place
            reply, scored = talk.exchanges[number].replies[which], pieces[number][2][which]
            digest, after = digested(asked, scored), answers.get(place, ())
            tokens = scored if after else [*scored, *pieces[number][3][which]]
            found[place] = len(nodes)
            depth = nodes[prompt].turn
            if reply.branch is None:
                nodes.append(Node(prompt, tokens, 0, depth, source=number))
            else:
                name = f"{reply.name}#{digest.hexdigest()}"
                nodes.append(Node(prompt, tokens, len(scored), depth, name, number, reply.branch))
            for later in reversed(after):
                waiting.append(partial(ask, later, found[place], digest))

        ask(first, -1, hashlib.blake2s(digest_size=6))
        while waiting:
            waiting.pop()()
        pairs = [
            Pair(nodes[found[n, 0]].turn, found[n, choice.preferred], found[n, choice.rejected], choice.where)
            for n in dict.fromkeys(n for n, _ in found)
            for choice in talk.exchanges[n].choices
        ]
        return TokenTree(tree_id, tuple(nodes), tuple(sorted(pairs, key=lambda pair: pair.turn)))
