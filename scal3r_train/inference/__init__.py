"""From a video to a scene folder (docs/reconstruct.md). Where to look, top first:

python_api.py    `from scal3r_train import reconstruct`
streaming/       reconstruction while images arrive, on one process
reconstruct.py   the whole story for a video that is there: `scal3r reconstruct`
publish.py       the results of all processes put together and written
rank_work.py     what one process does with its own chunks
image_processing_scal3r.py   transformers' image processor: images to chunks of pixel_values, and back
loop_closure/    places seen twice
alignment/       neighbouring chunks joined into one world
network/         chunks through the network, segment by segment
run.py           what every stage of a run needs: video, chunks, recipe, output
settings.py      the recipe of a reconstruction
input/           the frames and what the user knows of them
prediction.py    what the network predicts for one chunk, in memory and as a file
chunking.py      how a video is cut into chunks
progress.py      stages: time taken and progress shown
tensor_file.py   tensors written as one file
"""
