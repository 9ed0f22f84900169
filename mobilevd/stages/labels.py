"""The names under which a run's networks and references are evaluated, shown and judged; in the tables' order."""

REAL = "real"
SHOWN = (REAL, "teacher", "student", "quantized")
COMPARED = {"student": "teacher", "quantized": "student"}  # told apart by clip, the first less the second
LABELS = {
    "autoencoder": "the autoencoder alone",
    "frozen": "the first frame, frozen",
    "shuffled": "the autoencoder's frames after the first, shuffled",
    "teacher": "teacher, {steps} steps ({nfe} evaluations)",
    "teacher_one_step": "teacher forced to one step",
    "distilled": "student after distillation, 1 evaluation",
    "pruned": "student after pruning, 1 evaluation",
    "student": "student after funnels, 1 evaluation",
    "quantized": "student quantized, 1 evaluation",
}
