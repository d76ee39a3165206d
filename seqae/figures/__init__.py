"""The paper's figures, each from a trained model, its data or its record of training."""
