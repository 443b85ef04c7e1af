"""Where images come from: readers of what users have, the prepared store, augmentation."""
