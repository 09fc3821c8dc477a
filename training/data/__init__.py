"""From raw data to batches: layouts, label tables, splits, crops, shards, augmentation."""
