"""The memory study: does the memory learn what a chunk alone cannot know, and does that hold for longer sequences?"""
