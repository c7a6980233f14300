"""Networks: torso and heads."""
