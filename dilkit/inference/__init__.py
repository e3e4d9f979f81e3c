"""Using a net: whole images in batches and tiles, image files, exported programs."""
