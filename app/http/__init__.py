"""From bytes on the wire to checked values and back.

Knows no CLIP and no job; of app it imports settings and metrics.
"""
