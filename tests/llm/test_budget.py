"""Limits of dollars and calls: never overshot by what is in flight, and nothing lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import Budget, BudgetError, expected_tokens
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion, PendingError, Request
from aloe_jax.llm.settings import Price, RoleSettings

PRICE = Price(input=1.0, output=10.0)


def request(number: int) -> Request:
    return Request("user", {}, "s" * 40, f"question {number:04d}", {}, 0.0, number)


class Priced:
    """Charges for the prompt and for `used` of at most `most` output tokens."""

    name = "priced"

    def __init__(self, most=100, used=40):
        self.role = RoleSettings(model="priced", price=PRICE, max_output_tokens=most)
        self.used, self.calls, self.lock = used, 0, threading.Lock()

    def complete(self, request):
        with self.lock:
            self.calls += 1
        tokens = expected_tokens(request.system + request.prompt)
        return Completion("yes", tokens, self.used, cost=PRICE.cost(tokens, self.used))


@given(st.integers(1, 100), st.floats(0.001, 0.02), st.integers(1, 16))
def test_dollars_are_never_overshot_however_many_threads_ask(used, dollars, threads):
    llm, budget = Priced(used=used), Budget(max_cost=dollars)

    def ask(number):
        try:
            with budget.reserved(llm, request(number)) as settle:
                settle(llm.complete(request(number)))
        except BudgetError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(threads) as pool:
        refusals = list(pool.map(ask, range(40)))
    each = PRICE.cost(expected_tokens("s" * 53), used)
    assert budget.cost == pytest.approx(llm.calls * each) and budget.cost <= dollars
    assert budget.calls == llm.calls == refusals.count("")
    assert all("max_cost: this run has spent $" in text for text in refusals if text)


def test_finished_calls_are_free_and_the_rest_is_refused(tmp_path):
    llm = Priced()
    with Ledger(tmp_path / "j", budget=Budget(max_calls=3)) as ledger:
        for number in (0, 1, 2, 0, 1, 2):
            ledger.complete(llm, request(number))
        with pytest.raises(BudgetError, match="max_calls: this run has made its 3 calls"):
            ledger.complete(llm, request(3))
    with Ledger(tmp_path / "j", budget=Budget(max_calls=1)) as ledger:
        for number in (0, 1, 2, 3):
            ledger.complete(llm, request(number))
        assert ledger.usage()["priced/user"].cost == pytest.approx(4 * PRICE.cost(14, 40))
    assert llm.calls == 4


def test_a_call_that_fails_gives_its_room_back_and_a_pending_one_was_never_made(tmp_path):
    class Failing(Priced):
        error: BaseException = AloeError("refused")

        def complete(self, request):
            raise self.error

    llm = Failing()
    budget = Budget(max_cost=0.0012)  # room for one call of at most $0.001014
    with Ledger(tmp_path / "j", budget=budget) as ledger:
        for _ in range(3):
            with pytest.raises(AloeError, match="refused"):
                ledger.complete(llm, request(0))
        llm.error = PendingError()
        with pytest.raises(PendingError):
            ledger.complete(llm, request(0))
        assert (budget.calls, budget.cost) == (3, 0.0)
        assert ledger.complete(Priced(), request(0)).text == "yes"
        with pytest.raises(BudgetError):
            ledger.complete(Priced(), request(1))
