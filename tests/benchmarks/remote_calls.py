"""What the client adds to remote calls: `python -m tests.benchmarks.remote_calls`.

Calls go through the retry layer from a pool of threads to a stand-in server, a process of its own that answers after
`--latency` seconds. Ideal is the time of full waves of `--in-flight` calls. CPU is this process's alone. The first
calls, which open the connections, are not counted.
"""

from __future__ import annotations

import math
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import click

from aloe_jax.llm.protocol import Request
from aloe_jax.llm.providers import language_model
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import PreferredReply, render
from tests.standin import running
from tests.standin.answers import personality, profile

PROVIDERS = ("gemini", "genai", "openai")
WARM_UP = 128
SHARE, CPU = 0.90, 4.0  # what is required: of the ideal throughput, and milliseconds a call


def requests(count: int, first: int) -> list[Request]:
    """Questions of the size of a verifier's in the tenth turn, no two alike."""
    made = []
    for number in range(first, first + count):
        draw = random.Random(number)
        history = []
        for _ in range(9):
            history.append({"role": "user", "content": personality(draw)[:120]})
            history.append({"role": "assistant", "content": profile(draw)[:200]})
        history.append({"role": "user", "content": f"Question {number}?"})
        inputs = {"profile": profile(draw), "personality": personality(draw), "history": history}
        inputs |= {"first": profile(draw)[:200], "second": profile(draw)[:200]}
        made.append(
            Request("verifier", inputs, *render("verifier", inputs), PreferredReply.model_json_schema(), 0.0, number)
        )
    return made


@click.command()
@click.option("--provider", type=click.Choice(PROVIDERS), multiple=True, help="One or more; all by default.")
@click.option("--calls", default=1000, show_default=True)
@click.option("--in-flight", default=64, show_default=True)
@click.option("--latency", default=0.5, show_default=True, help="Seconds.")
def main(provider: tuple[str, ...], calls: int, in_flight: int, latency: float) -> None:
    """Print time, throughput as a share of the ideal, and CPU a call; exit with 1 below what is required."""
    os.environ["REMOTE_CALLS_KEY"] = "any-key"
    warm_up, measured = requests(WARM_UP, 0), requests(calls, WARM_UP)
    ideal = math.ceil(calls / in_flight) * latency
    size = sum(len(request.system) + len(request.prompt) for request in measured) / calls
    click.echo(
        f"{calls:,} calls of {size:,.0f} characters, {in_flight} in flight, {latency} s each: ideal {ideal:.2f} s"
    )
    short = []
    for name in provider or PROVIDERS:
        with running(latency=latency) as server, ThreadPoolExecutor(in_flight) as threads:
            endpoint = server.url + ("/v1" if name == "openai" else "")
            role = RoleSettings(provider=name, model="plain", endpoint=endpoint, key_variable="REMOTE_CALLS_KEY")
            llm = language_model(role, "verifier")
            list(threads.map(llm.complete, warm_up))
            server.show(clear=True)
            start, cpu = time.perf_counter(), time.process_time()
            answers = list(threads.map(llm.complete, measured))
            spent, used = time.perf_counter() - start, 1000 * (time.process_time() - cpu) / calls
            peak = server.show()["peak"]
        share = ideal / spent
        good = share >= SHARE and used < CPU and all(answer.outcome == "ok" for answer in answers)
        click.echo(
            f"{name:<7} {spent:6.2f} s, {calls / spent:6.1f} calls/s, {share:4.0%} of the ideal, "
            f"{used:.2f} ms CPU a call, {peak} in flight at most{'' if good else '  SHORT'}"
        )
        if not good:
            short.append(name)
    if short:
        raise click.ClickException(f"below {SHARE:.0%} of the ideal or above {CPU:g} ms CPU: {', '.join(short)}")


if __name__ == "__main__":
    main()
