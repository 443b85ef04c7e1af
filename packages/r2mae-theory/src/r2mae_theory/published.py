"""Published accuracies that figure 1F transforms."""

# Large models, masks without replacement rules: README of the DinkyTrain repository (commit 67c5b37), which publishes
# the numbers of Wettig et al. (2023), "Should You Mask 15% in Masked Language Modeling?". Percent, higher is better.
BERT_RATIOS = (0.15, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80)
BERT_ACCURACY = {
    "MNLI": (84.2, 84.1, 84.2, 84.5, 84.1, 83.2, 82.3, 80.8),
    "QNLI": (90.9, 91.3, 91.6, 91.6, 91.1, 90.7, 89.4, 87.9),
    "QQP": (87.8, 87.9, 88.0, 88.1, 88.1, 87.8, 87.5, 87.1),
    "SST-2": (93.3, 92.7, 93.0, 92.8, 92.7, 92.6, 91.9, 90.5),
}
