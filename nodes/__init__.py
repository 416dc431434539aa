"""The nodes that ComfyUI shows: thin classes that unpack their inputs, call `trainer` and return."""
