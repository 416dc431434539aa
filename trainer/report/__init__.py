"""What a run did, to keep and to pass on: one HTML page and one tall picture in the folder of the run."""
