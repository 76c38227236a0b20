"""What layers and models of ours compute in, whatever policy the user has set for float models.

Half precision holds neither codes of 16 bits nor scales; a file's kernels know neither.
"""

DTYPE = "float32"
