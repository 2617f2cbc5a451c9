"""Our on-policy RL against TRL's GRPOTrainer and Tunix's GRPO learner: `python -m tests.benchmarks.rl_against_peers`.

All train one random model of the demo's shape with full updates by AdamW in float32, on groups of four replies with up
to 40 tokens that one rule rates, with the advantage of Dr. GRPO, clipped ratios, one update a step and no divergence
from a reference. A step is 640 replies: 16 conversations of ten turns. A reply has 16 tokens on average, about as in
the demo, for the model ends it with a chance of 1 in 18 at every token; with `--mean-reply 0` that is as unlikely as
any other word, and all but a few replies are cut at 40.

What differs: our user speaks, by its script, to the reply that was drawn, so that the history of a turn is what our
policy said. TRL and Tunix take prompts: for them every turn is flattened, and its history has scripted replies, whose
lengths have the distribution of the policy's. So all draw the same number of replies, of the same lengths, after the
same messages and prompts of the same lengths, but the replies in those prompts are others. Ours also calls user and
judge by prompt, journal and answer, as in any run, where the others call the rule itself.

Counted are rated replies that were trained on, a second, drawing and rating included. Validation, checkpoints and logs
are left out for all, as are compilation and the first steps. For the rest see against_peers.py.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from tests.benchmarks.peers.contest import Contestant, Side, compete
from tests.benchmarks.peers.contestants import RL, RL_TRIED, TRL_RL, TUNIX_RL
from tests.benchmarks.peers.environments import own_directory
from tests.benchmarks.peers.models import write_policy
from tests.benchmarks.peers.rl_task import RLTask
from tests.benchmarks.peers.session import Session, chosen, take_cores

WANTED = {TRL_RL.name: 8.0, TUNIX_RL.name: 15.0}  # times as many replies a second as each
AGREE = 0.15  # the share by which the mean length of replies may differ between sides


def tuned(session: Session, contestant: Contestant, task: RLTask) -> Contestant:
    """The contestant with the fastest of the sizes that it has to choose from."""
    if contestant.name not in RL_TRIED or not session.wants(contestant):
        return contestant
    tried = []
    for sizes in RL_TRIED[contestant.name]:
        title = f"{contestant.title}, {sizes['together']} drawn together, {sizes['batch']} trained"
        tried.append(replace(contestant, title=title, request=dict(contestant.request) | sizes))
    return session.fastest(tried, task)


def compare_lengths(sides: Sequence[Side]) -> None:
    """Raise ClickException where the sides do not draw replies of about the same length."""
    lengths = {}
    for side in sides:
        done = sum(record["done"] for record in side.records)
        lengths[side.title] = sum(record["mean_tokens"] * record["done"] for record in side.records) / done
        rewards = ", ".join(f"{record['reward']:.2f}" for record in side.records)
        click.echo(f"  {side.title}: {lengths[side.title]:.1f} tokens a reply; mean rating by round: {rewards}")
    ours = next(iter(lengths.values()))
    if any(abs(length / ours - 1) > AGREE for length in lengths.values()):
        raise click.ClickException("the sides do not draw replies of the same length: not the same task")


@click.command()
@click.option("--only", default="", help="Some of trl-rl, tunix-rl, by comma; ours always runs.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--conversations", default=16, show_default=True, help="Of a step.")
@click.option("--mean-reply", default=18, show_default=True, help="1 in so many tokens ends a reply; 0: all are cut.")
@click.option("--cores", default=2, show_default=True, help="How many cores everybody gets.")
@click.option("--tune", is_flag=True, help="First look which sizes are fastest for the peers.")
@click.option("--busy", is_flag=True, help="Measure though the machine is not quiet.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write every round's figures there.")
def main(
    only: str,
    rounds: int,
    conversations: int,
    mean_reply: int,
    cores: int,
    tune: bool,
    busy: bool,
    output: Path | None,
) -> None:
    """Print a table and the wanted ratios."""
    start = time.perf_counter()
    session = Session(chosen(only, RL), rounds, cores, WANTED)
    take_cores(cores, busy)
    directory = tempfile.mkdtemp(dir=own_directory(), prefix="models-")
    try:
        task = RLTask(directory, conversations=conversations, mean_reply=mean_reply)
        write_policy(task)
        click.echo(f"RL, {task.replies} replies a step in {conversations} conversations of {task.turns} turns")
        contestants = [tuned(session, contestant, task) if tune else contestant for contestant in RL]
        with session.sides(contestants, task, rounds) as sides:
            compete(sides, range(rounds))
            compare_lengths(sides)
            session.report("RL, rated replies that were trained on", sides, "replies")
            session.judge_speed(sides, "")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        session.write(output)
    session.conclude(time.perf_counter() - start)


if __name__ == "__main__":
    main()
