"""Training inside ESPnet: the task, the two phases, and the changes to ESPnet."""
