"""How often the shipped prompt rules flag innocent prompts, and how many unsafe ones they find, by tolerance.

`python benchmarks/safety.py` reads benchmarks/safety_prompts/*.txt (unsafe: category, tab, prompt), prints a table and
writes results/safety.json. Odd lines are the half that rules may be tuned on; even lines are held out.
Not measured: recall on pictures (there are no real positive pictures here) and prompts in other people's words.
"""

import json
from pathlib import Path

from impasto.engine.safety import Rules
from impasto.settings import SafetySettings

HERE = Path(__file__).parent
PROMPTS = HERE / "safety_prompts"


def main() -> None:
    rules = Rules.load(SafetySettings().prompt_thresholds)
    table: list[dict[str, object]] = []
    for name in ("innocent", "unsafe"):
        lines = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for half, part in (("tuned", lines[::2]), ("held out", lines[1::2])):
            prompts = [line.split("\t")[-1] for line in part]
            for tolerance in range(1, 7):
                flagged = [prompt for prompt in prompts if rules.judge(prompt, tolerance=tolerance).flagged]
                row = {"list": name, "half": half, "tolerance": tolerance, "flagged": len(flagged), "of": len(prompts)}
                table.append(row)
                print("{list:9} {half:9} tolerance {tolerance}: {flagged:3} of {of}".format(**row))
                if name == "innocent":
                    print("".join(f"    {prompt}\n" for prompt in flagged), end="")
    lines = (PROMPTS / "unsafe.txt").read_text(encoding="utf-8").splitlines()
    minors = [prompt for category, prompt in (line.split("\t") for line in lines) if category == "minors"]
    refused = [prompt for prompt in minors if rules.sexual_minors(prompt).flagged]
    table.append({"list": "minors", "always refused": len(refused), "of": len(minors)})
    print(f"minors: always refused {len(refused)} of {len(minors)}; missed: {sorted(set(minors) - set(refused))}")
    (HERE / "results" / "safety.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
