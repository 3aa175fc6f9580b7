"""Post-training, from base model to assistant: the equations of the book as small functions.

Nothing is imported here, so `from lab.objectives import dpo_loss` loads torch and nothing else.
"""

import logging

# On a CPU bitsandbytes, as it is imported, asks for a kernel from the Hub, and complains on stderr that there is none.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
