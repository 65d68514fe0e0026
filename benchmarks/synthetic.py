"""How fast towns are rendered: frames per second of processor time, over several towns.

Run: OMP_NUM_THREADS=1 python -m benchmarks.synthetic
"""

import time

from scal3r_train.data.synthetic.town import TownDrive, TownSettings

NUM_SEQUENCES = 8


def main() -> None:
    """Print one line per town and the total; setting up the town is included."""
    settings = TownSettings(num_sequences=NUM_SEQUENCES)
    spent = 0.0
    for number in range(NUM_SEQUENCES):
        start = time.process_time()
        num_frames = sum(1 for _ in TownDrive(settings, number).render())
        seconds = time.process_time() - start
        spent += seconds
        print(f"town {number}: {num_frames / seconds:6.1f} frames/s")
    size = f"{settings.height}x{settings.width}"
    print(f"all {NUM_SEQUENCES}: {NUM_SEQUENCES * settings.num_frames / spent:6.1f} frames/s at {size}")


if __name__ == "__main__":
    main()
