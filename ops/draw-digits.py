#!/usr/bin/env python3
"""Draws some of the digits of a CSV file in the terminal, each with what a model took it for: mistakes first.

    ops/draw-digits.py DIGITS.csv PREDICTIONS.jsonl [COUNT]

The file has 64 pixels of 0 to 16 a row and a label; a prediction has the row's number, counted from 0, as its id.
"""
import csv
import json
import sys

SHADES = " ░▒▓█"


def picture(pixels):
    """Eight lines of 16 characters of 64 pixels."""
    shade = lambda value: SHADES[min(len(SHADES) - 1, round(value / 16 * (len(SHADES) - 1)))] * 2
    return ["".join(shade(float(value)) for value in pixels[at : at + 8]) for at in range(0, 64, 8)]


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    with open(sys.argv[1], newline="", encoding="utf8") as file:
        rows = list(csv.reader(file))[1:]
    with open(sys.argv[2], encoding="utf8") as file:
        predictions = [json.loads(line) for line in file]
    count = int(sys.argv[3]) if len(sys.argv) == 4 else 8
    wrong = [line for line in predictions if line["class"] != line["expected"]]
    right = [line for line in predictions if line["class"] == line["expected"]]
    shown = wrong[: count // 2]
    shown += right[: count - len(shown)]
    for at in range(0, len(shown), 4):
        group = shown[at : at + 4]
        for lines in zip(*(picture(rows[line["id"]][:64]) for line in group)):
            print("  ".join(lines).rstrip())
        captions = []
        for line in group:
            sure = max(line["probabilities"])
            verdict = "right" if line["class"] == line["expected"] else f"not {line['expected']}"
            captions.append(f"{line['class']} ({sure:.0%}), {verdict}".ljust(16))
        print("  ".join(captions).rstrip())
        print()
    print(f"{len(right)} of {len(predictions)} right")


if __name__ == "__main__":
    main()
