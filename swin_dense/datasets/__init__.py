"""The generated shapes, checks of data sets before training, and own data."""
