"""How chunks pass the network, segment by segment (docs/model.md#segments). Where to look:

chunk_runner.py      one chunk through one segment or all of them; what it carries from one to the next
segment_schedule.py  all chunks of a whole video, with one update of each memory after all have written into it
online_memory.py     chunk after chunk of a video that still arrives, memories updated after each
state_store.py       where chunks wait between two segments: device, host, disk, or nowhere
out_of_memory.py     fewer frames at a time when the device's memory runs out
"""
