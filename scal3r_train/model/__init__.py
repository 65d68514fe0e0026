"""The Scal3R network on one device; nothing here knows about other processes (docs/model.md).

modeling_scal3r.py           the Hugging Face model: images of chunks in, cameras, depth and points out
configuration_scal3r.py      every size and switch of the network
aggregator.py                frame and global attention in segments; `_run` leads from memory to memory
amu.py                       one memory: write, sum, update, query and read
fast_weight.py               the maths of a memory as pure functions
pixel_values.py              the images of a call, checked
chunk_batch.py               chunks that travel together, and the order of their frames
block.py                     the transformer block
rope.py                      rotary position embedding
kernels.py                   kernels of attention; compiled blocks
precision.py                 which products run in bfloat16, TF32 or float32
patch_encoder.py             from images to patch tokens
camera_head.py, dpt_head.py  from tokens to cameras, depth and points
activation_checkpointing.py  what backward computes again
lora.py                      low-rank adapters on frozen blocks, and their parameters' names
stored_weights.py            a saved folder's weights, read interval by interval
adapted_weights.py           the first values of a model with adapters
merge_adapters.py            trained adapters and their base to a plain model
load_model.py                a saved folder to a model ready to use
weight_files.py              the files of a saved folder
hub_files.py                 what of a saved folder is published
hub_card.py                  the model card, text from facts
hub_upload.py                publishing on the Hugging Face hub
convert_checkpoint.py        the authors' weights to ours and back
scal3r_auto.py               copied into saved folders, for the Auto classes
salad.py                     a network for place recognition
"""
