"""What the tables are compared with and the paper does not print: label counts, model sizes, each with its source."""

from __future__ import annotations

from allora_analysis.claims.reported.cells import Architecture, LabelCounts

_LLM_ADAPTERS = "test set of github.com/AGI-Edgerunners/LLM-Adapters, revision 8166572, answers counted"
# The paper does not say which split it evaluates on; the test split is taken. On the validation split of emotion the
# majority is 704 of 2,000 (35.2 %); rotten_tomatoes has 1,066 rows, half of them positive, in both splits.
PERCEPTION_LABELS = {
    counts.dataset: counts
    for counts in (
        LabelCounts("rotten_tomatoes", 1066, 533, 50.0, "test split: 533 negative, 533 positive (Pang and Lee 2005)"),
        LabelCounts(
            "emotion",
            2000,
            695,
            34.75,
            "dair-ai/emotion, test split: sadness 581, joy 695, love 159, anger 275, fear 224, surprise 66",
        ),
        LabelCounts(
            "yelp", 50000, 10000, 20.0, "Yelp Review Full, test split: 10,000 of each of 5 stars (Zhang et al. 2015)"
        ),
        LabelCounts(
            "bias_in_bios",
            99069,
            None,
            29.8,
            "data set card of LabHC/bias_in_bios, revision 7dedfa2: professor 29.8 %, similar in each split",
        ),
    )
}
# HellaSwag's answers are not at hand: only its size is (10,042 questions, Zellers et al. 2019), so its rate is absent.
COMMONSENSE_LABELS = {
    counts.dataset: counts
    for counts in (
        LabelCounts("BoolQ", 3270, 2033, 100 * 2033 / 3270, f"{_LLM_ADAPTERS}: true"),
        LabelCounts("PIQA", 1838, 928, 100 * 928 / 1838, f"{_LLM_ADAPTERS}: solution2"),
        LabelCounts("SIQA", 1954, 657, 100 * 657 / 1954, f"{_LLM_ADAPTERS}: answer3"),
        LabelCounts("WGrande", 1267, 639, 100 * 639 / 1267, f"{_LLM_ADAPTERS}: option2"),
        LabelCounts("ARC-e", 2376, 633, 100 * 633 / 2376, f"{_LLM_ADAPTERS}: answer3"),
        LabelCounts("ARC-c", 1172, 311, 100 * 311 / 1172, f"{_LLM_ADAPTERS}: answer2"),
        LabelCounts("OBQA", 500, 138, 100 * 138 / 500, f"{_LLM_ADAPTERS}: answer1"),
    )
}
ARCHITECTURES = {
    architecture.model: architecture
    for architecture in (
        Architecture(
            "LLaMA-7B", 4096, 11008, 4096, 32, 32000, "Touvron et al. 2023a; config.json of huggyllama/llama-7b"
        ),
        Architecture("LLaMA2-7B", 4096, 11008, 4096, 32, 32000, "Touvron et al. 2023b; config.json of Llama-2-7b-hf"),
        Architecture("LLaMA3-8B", 4096, 14336, 1024, 32, 128256, "Dubey et al. 2024; config.json of Meta-Llama-3-8B"),
    )
}
ADAPTED_MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
ADAPTED_MODULES_SOURCE = "target_modules of github.com/NVlabs/DoRA, commonsense_reasoning/llama3_8B_DoRA.sh (7393fa6)"
