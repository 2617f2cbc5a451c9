"""Sources of a run: what they hold, what is held out of them, and what a mixture of them becomes."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.data import mixture
from aloe_jax.data.loader import FIELDS, Loader
from aloe_jax.data.selection import BOTH, PAIRS, PREFERRED, REPLIES
from aloe_jax.data.settings import DataSettings, SourceSettings
from aloe_jax.data.sources import held_out, kind_of, open_source
from aloe_jax.errors import AloeError
from datagen.convert import convert
from tests.conversations import conversation, forked, single_replies
from tests.data.families import loaded
from tests.data.jsonl import chat, preference, write_jsonl
from tests.data.prepared import gather, prepare

TEMPLATE = loaded("llama3")[2]
TREES = [conversation(1 + k % 4, f"c{k}", profile=k + 20) for k in range(12)]
CHATS = [chat(f"Ada{k}", 1 + k % 3) for k in range(20)]
PREFERENCES = [
    record
    for k in range(15)
    for record in (preference([f"hi {k}"], "a", "b"), preference([f"hi {k}", "a", "so"], "c", "d"))
]
RECORDS = {"trees": [tree.record() for tree in TREES], "chat": CHATS, "preferences": PREFERENCES}


@pytest.fixture
def files(tmp_path):
    """A file of each kind, none with a validation split."""
    return {kind: str(write_jsonl(tmp_path / f"{kind}.jsonl", records)) for kind, records in RECORDS.items()}


def data(*sources, **changes):
    values = {"row_length": 256, "validation_fraction": 0.3} | changes
    if len(sources) == 1 and isinstance(sources[0], str):
        return DataSettings(path=sources[0], **values)
    return DataSettings(mixture=tuple(SourceSettings(**source) for source in sources), **values)


def reply_ids(made):
    return {name for row in made.rows.reply_ids for name in row}


def names(made):
    return {name for row in made.rows.tree_ids for name in row}


# ---------------------------------------------------------------- kinds


def test_the_first_record_tells_the_kind(files, tmp_path):
    for kind, path in files.items():
        assert kind_of(SourceSettings(path=path)) == kind
        assert kind_of(SourceSettings(path=path, format="chat")) == "chat"
    ultra = {"prompt": "hi", "prompt_id": "x", "messages": CHATS[0]["messages"]}
    assert kind_of(SourceSettings(path=str(write_jsonl(tmp_path / "u.jsonl", [ultra])))) == "chat"
    feedback = {"prompt": "hi", "chosen": [], "rejected": [], "messages": []}
    assert kind_of(SourceSettings(path=str(write_jsonl(tmp_path / "f.jsonl", [feedback])))) == "preferences"


def test_trees_exported_as_preferences_train_like_the_trees(files, tmp_path):
    convert(files["trees"], "ours", tmp_path / "trl.jsonl", "trl")
    write_jsonl(tmp_path / "trees.validation.jsonl", RECORDS["trees"][:1])
    write_jsonl(tmp_path / "trl.validation.jsonl", PREFERENCES[:1])
    trees, again = (
        gather(data(path, row_length=512), TEMPLATE, PAIRS, "train")
        for path in (files["trees"], str(tmp_path / "trl.jsonl"))
    )
    assert str(trees.report) == str(again.report)
    np.testing.assert_array_equal(np.sort(trees.rows.length), np.sort(again.rows.length))


def test_what_cannot_be_told_is_refused(tmp_path):
    def refused(record, told):
        source = SourceSettings(path=str(write_jsonl(tmp_path / "x.jsonl", [record])))
        with pytest.raises(AloeError, match=told) as caught:
            kind_of(source)
        assert "\n" not in str(caught.value)

    refused({"text": "hello", "n": None}, r"x\.jsonl line 1: its fields \(text\) are not those of a conversation tree")
    refused({"profile": "p", "personality": "q", "conversations": []}, r"line 1: .* published ALOE format; convert")
    with pytest.raises(AloeError, match="a TFDS directory holds conversation trees; give chat as JSONL"):
        kind_of(SourceSettings(path=str(tmp_path), format="chat"))
    with pytest.raises(AloeError, match="no such data set"):
        kind_of(SourceSettings(path=str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize("kind", RECORDS)
def test_a_bad_record_is_named_before_any_is_tokenised(kind, files, tmp_path):
    bad = {"trees": {"id": "x"}, "chat": {"messages": []}, "preferences": {"prompt": "x", "chosen": "a"}}[kind]
    path = write_jsonl(tmp_path / "bad.jsonl", [*RECORDS[kind], bad])
    line = len(RECORDS[kind]) + 1
    for split in ("train", "validation"):
        with pytest.raises(AloeError, match=rf"bad\.jsonl line {line}: (persona|messages|rejected): "):
            open_source(SourceSettings(path=str(path)), split, data(str(path)))
    talks = open_source(SourceSettings(path=str(path), limit=line - 1), "train", data(str(path)))
    assert talks.count == len(list(talks.trees)) > 0


# ---------------------------------------------------------------- what is held out


@pytest.mark.parametrize("kind", RECORDS)
def test_training_and_validation_share_nothing_and_miss_nothing(kind, files):
    train, validation = (gather(data(files[kind]), TEMPLATE, BOTH, split) for split in ("train", "validation"))
    whole = prepare_all(kind, files[kind])
    assert names(train) and names(validation)
    assert names(train) | names(validation) == names(whole) and not names(train) & names(validation)
    assert reply_ids(train) | reply_ids(validation) == reply_ids(whole) and not reply_ids(train) & reply_ids(validation)
    assert validation.report.trees < train.report.trees


def prepare_all(kind, path):
    source = SourceSettings(path=path)
    both = (open_source(source, split, data(path)) for split in ("train", "validation"))
    return prepare([talk for talks in both for talk in talks.trees], TEMPLATE, 256, BOTH, path)


@pytest.mark.parametrize("kind", RECORDS)
def test_more_records_move_no_others(kind, files, tmp_path):
    random = np.random.default_rng(0)
    few = list(RECORDS[kind][: len(RECORDS[kind]) * 2 // 3])
    before, after = (
        [names_by_text(write_jsonl(tmp_path / f"{name}.jsonl", records), split) for split in ("train", "validation")]
        for name, records in (("few", few), ("many", random.permutation(np.array(RECORDS[kind], object)).tolist()))
    )
    # What was read before is still on its side, perhaps with more records in its trees.
    assert before[0] and before[1]
    assert before[0] <= after[0] and before[1] <= after[1] and not after[0] & after[1]


def names_by_text(path, split):
    """The first user messages of a split."""
    talks = open_source(SourceSettings(path=str(path)), split, data(str(path))).trees
    return {
        next(iter(mixture.token_trees([talk], TEMPLATE, 256, BOTH, "w")[0].nodes[:1])).tokens.tobytes()
        for talk in talks
    }


digests = st.lists(st.binary(min_size=8, max_size=8), min_size=2, max_size=40, unique=True)


@given(digests, digests, st.floats(0.01, 0.99))
def test_held_out_by_content_alone(some, more, fraction):
    held = held_out(some, fraction, "p")
    assert 0 < held.sum() < len(some)
    limit = fraction * 2**64
    by_content = np.array([int.from_bytes(digest, "big") < limit for digest in some])
    if 0 < by_content.sum() < len(some):
        assert (held == by_content).all()
        assert (held_out([*some, *more], fraction, "p")[: len(some)] == held).all()
    else:
        assert (held != by_content).sum() == 1


def test_about_the_fraction_is_held_out():
    random = np.random.default_rng(0)
    assert 400 < held_out([random.bytes(8) for _ in range(10_000)], 0.05, "p").sum() < 600


def test_equal_records_cannot_be_divided(tmp_path):
    path = str(write_jsonl(tmp_path / "one.jsonl", [CHATS[0]] * 3))
    with pytest.raises(AloeError, match=r"one\.jsonl: nothing can be held out of 3 record\(s\) that all begin alike"):
        gather(data(path), TEMPLATE, PREFERRED, "train")


def test_a_validation_file_of_its_own_is_taken(files, tmp_path):
    write_jsonl(tmp_path / "chat.validation.jsonl", [chat(f"Bob{k}", 2) for k in range(5)])
    train, validation = (gather(data(files["chat"]), TEMPLATE, PREFERRED, s) for s in ("train", "validation"))
    assert train.report.trees == len(CHATS) and validation.report.trees == 5
    assert all("chat.validation.jsonl line" in name for name in names(validation))
    few = gather(data(files["chat"], validation_limit=2, limit=4), TEMPLATE, PREFERRED, "validation")
    assert few.report.trees == 2
    assert gather(data(files["chat"], limit=4), TEMPLATE, PREFERRED, "train").report.trees == 4


def test_a_tfds_directory_without_a_validation_split(tmp_path):
    from aloe_jax.data.tfds_records import stored
    from datagen.build import write_tfds

    path = write_tfds("aloe_trees", {"train": [stored(tree) for tree in TREES]}, tmp_path, {})
    train, validation = (gather(data(str(path)), TEMPLATE, PAIRS, split) for split in ("train", "validation"))
    assert names(train) | names(validation) == {tree.id for tree in TREES} and not names(train) & names(validation)


def test_what_is_held_out_is_told(files):
    told = []
    gather(data(files["chat"], validation_limit=2), TEMPLATE, PREFERRED, "validation", show=told.append)
    (line,) = told
    assert f"{files['chat']}: has no validation split: " in line and "of 20 conversations are held out" in line
    assert line.endswith("2 of them used (data.validation_limit)")


def test_chats_that_end_unanswered_are_told(tmp_path):
    record = {"messages": [*CHATS[0]["messages"], {"role": "user", "content": "bye"}]}
    path, told = str(write_jsonl(tmp_path / "c.jsonl", [record, *CHATS])), []
    gather(data(path), TEMPLATE, PREFERRED, "train", show=told.append)
    assert told == [f"{path}: 1 chats end with a user message, which is left out"]


# ---------------------------------------------------------------- mixtures


def test_one_source_is_what_it_was_alone(files):
    made = gather(data(files["trees"]), TEMPLATE, PAIRS, "train")
    talks = list(open_source(SourceSettings(path=files["trees"]), "train", data(files["trees"])).trees)
    alone = prepare(talks, TEMPLATE, 256, PAIRS, "w")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(made.rows, name), getattr(alone.rows, name))
    assert made.rows.tree_ids == alone.rows.tree_ids and str(made.report) == str(alone.report) == made.describe()


def test_sources_keep_to_their_rows(files):
    weights = {"trees": 2.0, "chat": 0.5, "preferences": 1.0}
    made = gather(data(*({"path": files[k], "weight": w} for k, w in weights.items())), TEMPLATE, PREFERRED, "train")
    assert [part.name for part in made.parts] == [files[kind] for kind in weights]
    assert [part.weight for part in made.parts] == list(weights.values())
    assert made.parts[0].start == 0 and made.parts[-1].stop == len(made.rows)
    for part, kind, report in zip(made.parts, weights, made.reports, strict=True):
        alone = gather(data(files[kind]), TEMPLATE, PREFERRED, "train")
        assert report == alone.report and len(alone.rows) == part.stop - part.start
        here = slice(part.start, part.stop)
        np.testing.assert_array_equal(made.rows.tokens[here], alone.rows.tokens)
        assert made.rows.tree_ids[here] == alone.rows.tree_ids
    assert made.report.tokens == sum(report.tokens for report in made.reports) == made.rows.length.sum()
    np.testing.assert_allclose(made.report.fill, made.rows.length.sum() / made.rows.tokens.size)
    told = made.describe().splitlines()
    assert len(told) == 4 and told[1].startswith(f"  2 x {files['trees']}: ") and str(made.report) == told[0]
    loader = Loader(made.rows, 4, 0, parts=made.parts)
    assert loader.resume(json.loads(json.dumps(loader.position(3)))) == 3


def test_trees_and_preferences_mix_in_dpo_and_chats_do_not(files):
    both = data({"path": files["trees"]}, {"path": files["preferences"]})
    made = gather(both, TEMPLATE, PAIRS, "train")
    assert all(report.pairs > 0 for report in made.reports) and made.rows.pairs.shape[1] > 0
    for split in ("train", "validation"):
        with pytest.raises(AloeError, match=r"chat\.jsonl: a chat has one reply a turn, so there is nothing to prefer"):
            gather(data({"path": files["trees"]}, {"path": files["chat"]}), TEMPLATE, PAIRS, split)


def test_trees_without_a_pair_take_no_room_in_dpo():
    talks = [conversation(2), single_replies(), forked()]
    assert prepare(talks, TEMPLATE, 512, PAIRS, "w").report.trees == 2
    with pytest.raises(AloeError, match="w: no turn has two replies, so there is nothing to prefer"):
        prepare([single_replies()], TEMPLATE, 512, PAIRS, "w")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_sft_on_rejected_replies_learns_them_alone_and_chats_as_ever(files, split):
    """The publication's baseline: the same turns and mixture, with the replies that were not preferred."""
    mixed = data({"path": files["trees"]}, {"path": files["chat"]})
    rejected, preferred = (gather(mixed, TEMPLATE, REPLIES[name], split) for name in ("rejected", "preferred"))
    for made, name in ((rejected, "rejected"), (preferred, "preferred")):
        of_trees = {one for one in reply_ids(made) if re.match(r"c\d+/", one)}
        assert of_trees and {one.split("/")[2].split("#")[0] for one in of_trees} == {name}
    turns = [
        {tuple(one.split("/")[:2]) for one in reply_ids(made) if "chat" not in one} for made in (rejected, preferred)
    ]
    assert turns[0] == turns[1]
    of_chats = [{one for one in reply_ids(made) if not re.match(r"c\d+/", one)} for made in (rejected, preferred)]
    assert of_chats[0] == of_chats[1] and of_chats[0]


def test_data_without_a_rejected_reply_is_refused_for_them(files):
    with pytest.raises(AloeError, match=r"chat\.jsonl: no turn has a rejected reply, which is what sft\.replies"):
        gather(data(files["chat"]), TEMPLATE, REPLIES["rejected"], "train")
    with pytest.raises(AloeError, match="w: no turn has a rejected reply"):
        prepare([single_replies()], TEMPLATE, 512, REPLIES["rejected"], "w")


def test_a_source_given_twice_is_refused(files):
    with pytest.raises(AloeError, match=r"data\.mixture: .*chat\.jsonl is given twice; .* sum of the weights"):
        gather(data({"path": files["chat"]}, {"path": files["chat"]}), TEMPLATE, PREFERRED, "train")


def test_rows_too_short_for_a_source_name_it(files):
    with pytest.raises(AloeError, match=r"none of [0-9]+ trees of .*trees\.jsonl fits a row of 8 tokens"):
        gather(data({"path": files["trees"]}, {"path": files["chat"]}, row_length=8), TEMPLATE, PREFERRED, "train")


def test_a_better_row_length_is_looked_for_where_asked(files):
    made = gather(data(files["trees"], row_length=1024, rows=2), TEMPLATE, PAIRS, "train", longest=1024)
    assert made.report.better is not None and made.report.better[1] > made.report.fill
    assert " full); rows of " in made.describe()
    better = gather(data(files["trees"], row_length=made.report.better[0], rows=2), TEMPLATE, PAIRS, "train")
    assert len(better.rows) >= 2


@pytest.mark.parametrize(("limit", "rows"), [(5, 1), (5, 8), (12, 8), (8, 2)])
def test_a_row_for_all_that_there_is_is_not_recommended(files, limit, rows):
    made = gather(
        data(files["trees"], row_length=1024, limit=limit, rows=rows), TEMPLATE, PAIRS, "train", longest=16384
    )
    if made.report.better is not None:
        assert made.report.tokens / made.report.better[0] / made.report.better[1] >= max(2, rows)
    validation = gather(data(files["trees"], row_length=1024), TEMPLATE, PAIRS, "validation", longest=16384)
    assert validation.report.better is None


def pairs_record(name, turns, single=False, profile=None):
    record = conversation(turns, name, profile=profile).record()
    if single:
        record["turns"] = [{**turn, "rejected": None, "continued": "preferred"} for turn in record["turns"]]
        for turn in record["turns"]:
            turn.pop("hinted", None)
    return record


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ([pairs_record("v", 2, single=True)], r"the validation split of .*p\.jsonl: no turn has two replies"),
        (["long"], r"none of 1 trees of the validation split of .*p\.jsonl fits a row of 128 tokens"),
        (
            ["long pair"],
            r"data\.row_length: the validation split of .*p\.jsonl: none of its 1 pairs fits a row of 128 tokens",
        ),
    ],
)
def test_a_validation_split_whose_pairs_do_not_fit_says_so(tmp_path, validation, told):
    long = pairs_record("v", 2)
    if validation == ["long"]:
        long["turns"][0]["user"] = "word " * 200
        validation = [long]
    elif validation == ["long pair"]:  # a turn with one reply fits, the pair behind it does not
        long["turns"][0] |= {"rejected": None, "continued": "preferred", "hinted": "preferred"}
        long["turns"][1]["user"] = "word " * 200
        validation = [long]
    path = write_jsonl(tmp_path / "p.jsonl", [pairs_record(f"c{k}", 2) for k in range(5)])
    write_jsonl(tmp_path / "p.validation.jsonl", validation)
    given = data(str(path), row_length=128)
    assert gather(given, TEMPLATE, PAIRS, "train").report.pairs == 10
    with pytest.raises(AloeError, match=told):
        gather(given, TEMPLATE, PAIRS, "validation")


def test_a_source_of_a_mixture_whose_pairs_do_not_fit_is_told(tmp_path, capsys):
    long = pairs_record("v", 2)
    long["turns"][0] |= {"rejected": None, "continued": "preferred", "hinted": "preferred"}
    long["turns"][1]["user"] = "word " * 200
    one = write_jsonl(tmp_path / "a.jsonl", [pairs_record(f"c{k}", 2, profile=k) for k in range(5)])
    other = write_jsonl(tmp_path / "b.jsonl", [long, long | {"id": "w"}])
    write_jsonl(tmp_path / "b.validation.jsonl", [pairs_record("x", 1)])
    given = data({"path": str(one)}, {"path": str(other)}, row_length=128)
    assert gather(given, TEMPLATE, PAIRS, "train").report.pairs > 0
    assert "b.jsonl: none of its 2 pairs fits a row of 128 tokens" in capsys.readouterr().err


def test_progress_of_large_sources_is_told_ten_times(files, monkeypatch):
    told = []
    gather(data(files["chat"]), TEMPLATE, PREFERRED, "train", show=told.append)
    assert told == []
    monkeypatch.setattr(mixture, "LARGE", 10)
    gather(data(files["chat"]), TEMPLATE, PREFERRED, "train", show=told.append)
    count = open_source(SourceSettings(path=files["chat"]), "train", data(files["chat"])).count
    assert 9 <= len(told) <= 10
    assert told[-1] == f"train: {files['chat']}: {count} of {count} conversations are tokens"
