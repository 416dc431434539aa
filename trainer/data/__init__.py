"""From a folder of pictures to batches: reading, cropping, captions, masks, class images."""
