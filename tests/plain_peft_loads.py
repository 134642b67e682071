"""Loads adapters as a user of plain PEFT does, who has never heard of the package: one JSON object a folder.

`python -m tests.plain_peft_loads FOLDER...` from the repository's root.
"""

import json
import sys
import warnings

from peft import LoraConfig, PeftConfig, PeftModel

from tests.tiny_peft_models import logits, qwen


def attempt(load) -> dict:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = {"result": load()}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
    ours = [str(w.message) for w in caught if w.category is not FutureWarning]
    return result | {"warnings": ours}


def main(folders: list[str]) -> None:
    results = []
    for folder in folders:
        results.append(
            {
                "model": attempt(lambda f=folder: logits(PeftModel.from_pretrained(qwen(), f)).tolist()),
                "config": attempt(lambda f=folder: type(PeftConfig.from_pretrained(f)).__name__),
                "lora_config": attempt(lambda f=folder: LoraConfig.from_pretrained(f).lora_alpha),
            }
        )
    print(json.dumps({"results": results, "ours": "allora_analysis" in sys.modules}))


if __name__ == "__main__":
    main(sys.argv[1:])
