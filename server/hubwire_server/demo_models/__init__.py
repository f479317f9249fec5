"""Files of the demo models that no package ships: the trained head of the sentiment model, and how it was trained."""
