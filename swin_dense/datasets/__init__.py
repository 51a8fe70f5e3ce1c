"""Generated shapes, checks of data sets before training, and InstaBoost."""
