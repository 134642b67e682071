"""Table 1: accuracy on eight commonsense tasks, DoRA against ALLoRA, and DoRA's rows as DoRA's authors publish them."""

from __future__ import annotations

from allora_analysis.claims.reported.cells import CommonsenseRow

TASKS = ("BoolQ", "PIQA", "SIQA", "HSwag", "WGrande", "ARC-e", "ARC-c", "OBQA")

# The OCR's row labels are damaged ("LLoMA 7B 22", "LLaWA2-/B 10"); the six blocks stand in the caption's order
# (LLaMA 7B, LLaMA2 7B, LLaMA3 8B), ranks 16 then 32 (§4.5), and the parameter column tells 16 from 32.
TABLE_1 = tuple(
    CommonsenseRow(model, rank, arm, parameters, accuracies, average)
    for model, rank, arm, parameters, accuracies, average in (
        ("LLaMA-7B", 16, "DoRA", 0.43, (70.0, 82.6, 79.7, 83.2, 80.6, 80.6, 65.4, 77.6), 77.5),
        ("LLaMA-7B", 16, "ALLoRA", 0.41, (69.4, 82.7, 78.3, 84.8, 80.0, 80.9, 65.7, 79.2), 77.6),
        ("LLaMA-7B", 16, "ALLoRA-0", 0.41, (69.2, 80.8, 78.5, 83.9, 81.1, 80.8, 65.2, 78.2), 77.2),
        ("LLaMA-7B", 32, "DoRA", 0.84, (69.7, 83.4, 78.6, 87.2, 81.0, 81.9, 66.2, 79.2), 78.4),
        ("LLaMA-7B", 32, "ALLoRA", 0.83, (70.0, 82.3, 78.1, 84.6, 82.2, 81.0, 67.9, 81.0), 78.4),
        ("LLaMA-7B", 32, "ALLoRA-0", 0.83, (70.2, 82.6, 78.6, 83.8, 81.1, 81.0, 66.3, 82.6), 78.3),
        ("LLaMA2-7B", 16, "DoRA", 0.43, (72.0, 83.1, 79.9, 89.1, 83.0, 84.5, 71.0, 81.2), 80.5),
        ("LLaMA2-7B", 16, "ALLoRA", 0.41, (71.7, 83.7, 79.5, 91.4, 82.4, 84.3, 69.2, 81.2), 80.4),
        ("LLaMA2-7B", 16, "ALLoRA-0", 0.41, (72.4, 83.9, 80.0, 90.8, 83.0, 84.7, 71.3, 80.2), 80.8),
        ("LLaMA2-7B", 32, "DoRA", 0.84, (71.8, 83.7, 76.0, 89.1, 82.6, 83.7, 68.2, 82.4), 79.7),
        ("LLaMA2-7B", 32, "ALLoRA", 0.83, (72.2, 83.1, 79.6, 91.2, 84.5, 84.5, 71.0, 80.0), 80.8),
        ("LLaMA2-7B", 32, "ALLoRA-0", 0.83, (72.3, 83.8, 79.3, 91.4, 83.0, 85.0, 71.2, 82.2), 81.0),
        ("LLaMA3-8B", 16, "DoRA", 0.35, (74.5, 88.8, 80.3, 95.5, 84.7, 90.1, 79.1, 87.2), 85.0),
        ("LLaMA3-8B", 16, "ALLoRA", 0.35, (75.2, 88.9, 80.8, 95.6, 84.7, 90.2, 80.6, 85.8), 85.2),
        ("LLaMA3-8B", 16, "ALLoRA-0", 0.35, (74.5, 89.1, 80.4, 95.5, 85.8, 90.7, 80.3, 86.0), 85.3),
        ("LLaMA3-8B", 32, "DoRA", 0.71, (74.6, 89.3, 79.9, 95.5, 85.6, 90.5, 80.4, 85.8), 85.2),
        ("LLaMA3-8B", 32, "ALLoRA", 0.70, (74.5, 88.9, 81.8, 95.9, 86.3, 90.4, 80.5, 87.6), 85.8),
        ("LLaMA3-8B", 32, "ALLoRA-0", 0.70, (75.1, 88.7, 81.8, 95.8, 85.4, 91.0, 81.1, 86.6), 85.7),
    )
)

DORA_SOURCE = "github.com/NVlabs/DoRA, commonsense_reasoning/README.md, revision 5e3ce3e"
# (model, method, rank) → eight accuracies and their average, from DORA_SOURCE, at the ranks of Table 1; LoRA's at
# r = 16 are published for LLaMA-7B alone.
DORA_PUBLISHED = {
    ("LLaMA-7B", "DoRA", 16): (70.0, 82.6, 79.7, 83.2, 80.6, 80.6, 65.4, 77.6, 77.5),
    ("LLaMA-7B", "DoRA", 32): (69.7, 83.4, 78.6, 87.2, 81.0, 81.9, 66.2, 79.2, 78.4),
    ("LLaMA2-7B", "DoRA", 16): (72.0, 83.1, 79.9, 89.1, 83.0, 84.5, 71.0, 81.2, 80.5),
    ("LLaMA2-7B", "DoRA", 32): (71.8, 83.7, 76.0, 89.1, 82.6, 83.7, 68.2, 82.4, 79.7),
    ("LLaMA3-8B", "DoRA", 16): (74.5, 88.8, 80.3, 95.5, 84.7, 90.1, 79.1, 87.2, 85.0),
    ("LLaMA3-8B", "DoRA", 32): (74.6, 89.3, 79.9, 95.5, 85.6, 90.5, 80.4, 85.8, 85.2),
    ("LLaMA-7B", "LoRA", 16): (69.9, 77.8, 75.1, 72.1, 55.8, 77.1, 62.2, 78.0, 70.9),
    ("LLaMA-7B", "LoRA", 32): (67.5, 80.8, 78.2, 83.4, 80.4, 78.0, 62.6, 79.1, 76.3),
    ("LLaMA2-7B", "LoRA", 32): (69.8, 79.9, 79.5, 83.6, 82.6, 79.8, 64.7, 81.0, 77.6),
    ("LLaMA3-8B", "LoRA", 32): (70.8, 85.2, 79.9, 91.7, 84.3, 84.2, 71.2, 79.0, 80.8),
}
