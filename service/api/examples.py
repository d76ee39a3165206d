"""Example job specs, which /docs shows; a test submits each of them."""

from fastapi.openapi.models import Example

__all__ = ["SPECS"]

SPECS: dict[str, Example] = {
    "train": {
        "summary": "Train for a few minutes",
        "description": "Two workers, a small model on scenes of handwritten digits; everything else by default.",
        "value": {
            "name": "digits",
            "seed": 0,
            "data": {"kind": "mnist_scenes", "train_scenes": 3000, "test_scenes": 500},
            "schedule": {"batch_size": 25, "epochs": 5},
            "scaling": {"workers": 2},
        },
    },
    "paper": {
        "summary": "The paper's literal model",
        "value": {"name": "paper", "preset": "paper", "loss": {"alpha_mseot": 10}},
    },
    "tune": {
        "summary": "Search with ASHA",
        "description": "Eight trials of the base spec; the best one is registered.",
        "value": {
            "kind": "tune",
            "name": "loss-weights",
            "base": {"name": "trial", "schedule": {"epochs": 4}},
            "space": {"alpha_mseot": {"low": 1, "high": 100}, "bottleneck": [64, 256]},
            "trials": 8,
        },
    },
    "tune-paths": {
        "summary": "Search any field, with bounds that the result must meet",
        "description": "Keys are paths into the training spec. The winner is trained once more for longer.",
        "value": {
            "kind": "tune",
            "name": "learning-rate",
            "base": {"name": "trial", "schedule": {"epochs": 4}},
            "space": {
                "schedule.learning_rate": {"kind": "loguniform", "low": 0.0005, "high": 0.02},
                "model.attention.kernel_size": {"kind": "int", "low": 16, "high": 32, "step": 4},
                "model.localizer.kind": {"kind": "choice", "values": ["seeker", "small"]},
                "loss.alpha_location": {
                    "kind": "uniform",
                    "low": 0,
                    "high": 0.2,
                    "when": {"model.localizer.kind": ["seeker"]},
                },
            },
            "trials": 24,
            "constraints": ["val/count_accuracy >= 0.9"],
            "retrain": {"epochs": 10},
        },
    },
    "evaluate": {
        "summary": "Evaluate a registered model",
        "description": "The champion of a model, on scenes that are more crowded than those it was trained on.",
        "value": {
            "kind": "evaluate",
            "name": "crowded",
            "model": "seqae-mnist_scenes@champion",
            "data": {"kind": "mnist_scenes", "min_digits": 4, "max_digits": 6},
            "figures": [6, 7],
        },
    },
    "verify": {
        "summary": "Verify a training run",
        "description": "Trains a part of it again, and compares that with what was logged.",
        "value": {"kind": "verify", "name": "verification", "job": "job_0a1b2c3d4e5f", "reports": 5},
    },
    "figure": {
        "summary": "Make a figure of the paper",
        "description": "Figure 6 of the paper, with the model that is served.",
        "value": {"kind": "figure", "name": "figure-6", "figure": 6, "model": "champion", "index": 3},
    },
}
