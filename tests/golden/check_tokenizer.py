"""Does another version of transformers read the tokenizers that we write, with the same ids?

Two steps in two environments, this project's and one with transformers 4.57 and jinja2 (no torch):

    python -m tests.golden.check_tokenizer write DIRECTORY [MODEL_OR_TOKENIZER_DIRECTORY ...]   (the project's)
    python tests/golden/check_tokenizer.py compare DIRECTORY                                   (the other one)

`write` saves tokenizers of several kinds, and those of the directories given, with ids of texts and of chats as this
project's transformers has them. `compare` loads each with AutoTokenizer and fails on any other id, special token or
text.
"""

import json
import sys
from pathlib import Path

TEXTS = [
    "Hello there, how are you?",
    "  two spaces\n\nand\ttabs  ",
    "Grüße, 世界 🌍 — ½",
    "<|end|> in a text, <s>[INST] too <pad>",
    "def f(x):\n    return x ** 2  # 1234567890",
    "",
]
CHATS = [
    [{"role": "user", "content": "Hi <|end|> there"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ],
]
NAMES = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "all_special_tokens")
LOCAL = ("is_local", "local_files_only", "name_or_path", "backend")


def facts(tokenizer):
    """What both versions must agree on."""
    found = {
        "size": len(tokenizer),
        "texts": [tokenizer(text)["input_ids"] for text in TEXTS],
        "bare": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
        "chats": [],
    }
    found |= {name: getattr(tokenizer, name) for name in NAMES}
    found["all_special_tokens"] = sorted(found["all_special_tokens"])
    if tokenizer.chat_template:
        for chat in CHATS:
            for prompt in (False, True):
                text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
                found["chats"].append([text, tokenizer(text, add_special_tokens=False)["input_ids"]])
    found["decoded"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found["bare"]]
    return found


def variants():
    """Tokenizers with special, added, beginning and padding tokens, by name."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def core(special):
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        made.train_from_iterator(TEXTS * 5, trainer)
        return made

    template = (
        "{{ bos_token or '' }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    plain = PreTrainedTokenizerFast(tokenizer_object=core(["<pad>", "<|end|>"]), pad_token="<pad>", eos_token="<|end|>")
    plain.add_special_tokens({"additional_special_tokens": roles})
    plain.chat_template = template
    begun = core(["<s>", "</s>", "<unk>", "<|end|>"])
    begun.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    begins = PreTrainedTokenizerFast(tokenizer_object=begun, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    begins.chat_template = template
    added = PreTrainedTokenizerFast(tokenizer_object=core(["<|end|>"]), eos_token="<|end|>")
    added.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("  two", lstrip=True)])
    added.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": [*roles, "<extra>"]})
    added.chat_template = template
    several = PreTrainedTokenizerFast(tokenizer_object=core(["<|end|>"]), eos_token="<|end|>")
    several.chat_template = {"default": template, "short": "{{ messages[0]['content'] }}"}
    bare = PreTrainedTokenizerFast(tokenizer_object=core(["<|end|>"]), eos_token="<|end|>")
    return {"plain": plain, "begins": begins, "added": added, "several": several, "bare": bare}


def write(root, sources):
    """Save every tokenizer below `root`, and what is to be found there."""
    from aloe_jax.data.tokenizer import load_tokenizer
    from aloe_jax.data.tokenizer_files import save_tokenizer

    # As they are after training and export: saved, loaded by path, and saved again.
    made = {}
    for name, tokenizer in variants().items():
        save_tokenizer(tokenizer, root / "first" / name)
        made[name] = load_tokenizer(root / "first" / name)
    made |= {Path(source).resolve().name: load_tokenizer(source) for source in sources}
    for name, tokenizer in made.items():
        save_tokenizer(tokenizer, root / "second" / name)
        written = json.loads((root / "second" / name / "tokenizer_config.json").read_text())
        assert written["tokenizer_class"] == "PreTrainedTokenizerFast", name
        assert not [key for key in LOCAL if key in written], name
        (root / "second" / name / "expected.json").write_text(json.dumps(facts(tokenizer)))
        again = facts(load_tokenizer(root / "second" / name))
        assert again == facts(tokenizer), name


def compare(root):
    """The number of tokenizers that are read as something else."""
    import transformers
    from transformers import AutoTokenizer

    bad = 0
    directories = sorted((root / "second").iterdir())
    for directory in directories:
        expected = json.loads((directory / "expected.json").read_text())
        found = json.loads(json.dumps(facts(AutoTokenizer.from_pretrained(directory))))
        wrong = [key for key in expected if expected[key] != found[key]]
        for key in wrong:
            print(f"{directory.name}: {key} is {found[key]}\n  expected {expected[key]}")
        bad += bool(wrong)
    print(f"transformers {transformers.__version__}: {len(directories)} tokenizers, {bad} read as something else")
    return bad


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(bool(compare(Path(sys.argv[2]))))
