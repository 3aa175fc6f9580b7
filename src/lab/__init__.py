"""Post-training, from base model to assistant: the equations of the book as small functions.

Nothing is imported here, so `from lab.objectives import dpo_loss` loads torch and nothing else.
"""
