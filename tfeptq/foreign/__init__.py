"""Models of Keras 2 and SavedModels as models of Keras 3.

Every form is brought into one: a configuration in the terms of Keras 3, and an HDF5 file with the
weights of its layers by name and in order, which Keras 3 reads and checks itself.
"""
