"""Looking at a scene: the report, one HTML file, and the viewer in the browser (docs/viewing.md). Where to look:

report.py            `scal3r report`: report.html, section by section
report_tables.py     its header, warnings, tables of seams and loops, and the run
trajectory_chart.py  the cameras from above, as SVG
cloud_pictures.py    pictures of the points
charts.py            bars, lines, histogram, as SVG
html.py              HTML by construction, and the looks of the page
viewer.py            `scal3r view`: the server
client_view.py       one browser window and the thread that draws it
camera_drawing.py    cameras, trajectory, loops and ground truth in the viewer
controls.py          the viewer's panel
viewed_scene.py      the scene in the coordinates that the viewer shows
level_of_detail.py   which points of a large cloud are shown
colours.py           colours of chunks, confidences and verdicts
ground_truth.py      true cameras laid over a scene
thumbnails.py        small versions of the input images
video/               `scal3r render`: a scene as a video
"""
