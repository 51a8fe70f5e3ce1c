"""Generated shapes, checks of data sets before training, masks and transforms."""
