"""The statistical model of FaceNet's features, from which labelled features are drawn, and its fit."""
