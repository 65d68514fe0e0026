from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature

LENS = np.array([-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05])
HW, FOCAL, OFFSET = (120, 188), (114.7, 114.3), (-2.1, 3.3)
START_NS = 1403636579763555584


def scene() -> Miniature:
    """Seen through EuRoC's lens, in grey."""
    k = np.array([[FOCAL[0], 0, HW[1] / 2 + OFFSET[0]], [0, FOCAL[1], HW[0] / 2 + OFFSET[1]], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2)
    plane = cv2.undistortPoints(pixels, k, LENS, None, None, None, criteria).reshape(*HW, 2)
    return make_miniature(
        hw=HW, focal=FOCAL, centre_offset=OFFSET, rays=np.concatenate([plane, np.ones((*HW, 1))], -1)
    )


def sensor(kind: str, body_from_sensor: np.ndarray, others: list[str]) -> str:
    rows = ",\n         ".join(", ".join(f"{value:.13f}" for value in row) for row in body_from_sensor)
    head = [f"# {kind}", f"sensor_type: {kind}", "comment: VI-Sensor", "T_BS:", "  cols: 4", "  rows: 4"]
    return "\n".join([*head, f"  data: [{rows}]", *others]) + "\n"


def write(folder: Path, scene: Miniature) -> None:
    """Ground truth of a marker beside the body, at 200 Hz, from the second image on and without the last."""
    mav = folder / "MH_00_miniature" / "mav0"
    for name in ("cam0/data", "state_groundtruth_estimate0", "imu0", "leica0"):
        (mav / name).mkdir(parents=True)
    body_from_cam, body_from_truth = np.eye(4), np.eye(4)
    body_from_cam[:3, :3] = Rotation.from_euler("xyz", [1.0, -2.0, 89.0], degrees=True).as_matrix()
    body_from_cam[:3, 3] = [-0.0216, -0.0647, 0.0098]
    body_from_truth[:3, :3] = Rotation.from_euler("xyz", [2.0, 3.0, -5.0], degrees=True).as_matrix()
    body_from_truth[:3, 3] = [0.07, -0.02, 0.05]
    fx, fy, cx, cy = scene.intrinsics[0]
    lens = ", ".join(f"{value:.10g}" for value in LENS)
    (mav / "cam0" / "sensor.yaml").write_text(
        sensor(
            "camera",
            body_from_cam,
            [
                "rate_hz: 20",
                f"resolution: [{scene.hw[1]}, {scene.hw[0]}]",
                "camera_model: pinhole",
                f"intrinsics: [{fx}, {fy}, {cx - 0.5}, {cy - 0.5}] #fu, fv, cu, cv",
                "distortion_model: radial-tangential",
                f"distortion_coefficients: [{lens}]",
            ],
        )
    )
    (mav / "state_groundtruth_estimate0" / "sensor.yaml").write_text(
        sensor("visual-inertial", body_from_truth, [])
    )
    images = ["#timestamp [ns],filename"]
    states = ["#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], ..."]
    poses = scene.world_from_cam @ np.linalg.inv(body_from_cam) @ body_from_truth
    for i in range(scene.num_frames):
        time = START_NS + i * 50_000_000
        grey = np.array(Image.fromarray(scene.images[i]).convert("L"))
        Image.fromarray(grey).save(mav / "cam0" / "data" / f"{time}.png")
        images.append(f"{time},{time}.png")
        if i == scene.num_frames - 1:
            continue
        x, y, z, w = Rotation.from_matrix(poses[i, :3, :3]).as_quat()
        for step in (-1, 0, 1):
            position = poses[i, :3, 3] + 0.01 * step  # only the middle one is right
            values = [*position, w, x, y, z, *np.zeros(9)]
            state = ",".join(f"{value:.6f}" for value in values)
            states.append(f"{time + step * 5_000_000},{state}")
    images.append(f"{START_NS + 60_000_000},{START_NS + 60_000_000}.png")  # listed, not there
    (mav / "cam0" / "data.csv").write_text("\r\n".join(images) + "\r\n")
    (mav / "state_groundtruth_estimate0" / "data.csv").write_text("\n".join(states) + "\n")
    (mav / "body.yaml").write_text("comment: Bot\n")
