"""GLSL programs of the renderer.

Positions reach the fragment stage with their z in the camera, so that depth is exact and not what is left of it in a
depth buffer. `cutout` leaves out what a texture's opacity cuts away; without it the driver may test depth early.
"""

from __future__ import annotations

VERTEX = """#version 330
uniform mat4 clip_from_world;
uniform mat4 cam_from_world;
in vec3 position;
in vec3 normal;
in vec2 texture_at;
in vec2 shadow_at;
in vec3 colour;
out vec2 at;
out vec2 shade_at;
out vec3 facing;
out vec3 tint;
out float z;
void main() {
    z = (cam_from_world * vec4(position, 1)).z;
    gl_Position = clip_from_world * vec4(position, 1);
    at = texture_at;
    shade_at = shadow_at;
    facing = normal;
    tint = colour;
}
"""

COLOUR = """#version 330
uniform sampler2D base;
uniform sampler2D shade;
uniform vec3 to_sun;
uniform vec3 ambient;
uniform vec3 diffuse;
uniform float fog_per_m;
uniform vec3 fog_colour;
in vec2 at;
in vec2 shade_at;
in vec3 facing;
in vec3 tint;
in float z;
out vec4 result;
void main() {
    vec4 surface = texture(base, at);
    CUTOUT
    float lit = max(dot(normalize(facing), to_sun), 0.0);
    vec3 light = min(ambient + diffuse * lit, vec3(1.15)) * texture(shade, shade_at).rgb;
    float hidden = 1.0 - exp(-z * fog_per_m);
    result = vec4(mix(surface.rgb * tint * light, fog_colour, hidden), 1);
}
"""

DEPTH_VERTEX = """#version 330
uniform mat4 clip_from_world;
uniform mat4 cam_from_world;
in vec3 position;
in vec2 texture_at;
out vec2 at;
out float z;
void main() {
    z = (cam_from_world * vec4(position, 1)).z;
    gl_Position = clip_from_world * vec4(position, 1);
    at = texture_at;
}
"""

DEPTH = """#version 330
uniform sampler2D base;
in vec2 at;
in float z;
out float result;
void main() {
    vec4 surface = CUTOUT_SURFACE;
    CUTOUT
    result = z;
}
"""

CUTOUT = "if (surface.a < 0.5) discard;"

SKY_VERTEX = """#version 330
in vec2 corner;
out vec2 at;
void main() {
    at = corner;
    gl_Position = vec4(corner, 0.99999, 1);
}
"""

# The panorama is 90 degrees high with the horizon at 43 % from its top; `lens` leads from clip space to the ray.
SKY = """#version 330
uniform sampler2D panorama;
uniform mat3 world_from_cam;
uniform vec4 lens;
uniform float repeats;
uniform float hidden;
uniform vec3 fog_colour;
in vec2 at;
out vec4 result;
void main() {
    vec3 ray = world_from_cam * normalize(vec3((at - lens.zw) / lens.xy, 1));
    float around = (atan(ray.z, ray.x) / 6.2831853 + 0.5) * repeats;
    if (repeats > 1.5) {
        float copy = floor(around);
        around -= copy;
        if (mod(copy, 2.0) > 0.5) around = 1.0 - around;
        around = clamp(around, 0.002, 0.998);
    }
    float down = clamp(0.43 - asin(clamp(ray.y, -1.0, 1.0)) / 1.5707963, 0.004, 0.996);
    result = vec4(mix(textureLod(panorama, vec2(around, down), 0.0).rgb, fog_colour, hidden), 1);
}
"""


def colour_shader(*, is_cutout: bool) -> str:
    """Return the fragment stage that paints."""
    return COLOUR.replace("CUTOUT", CUTOUT if is_cutout else "")


def depth_shader(*, is_cutout: bool) -> str:
    """Return the fragment stage that writes z."""
    surface = "texture(base, at)" if is_cutout else "vec4(1)"
    return DEPTH.replace("CUTOUT_SURFACE", surface).replace("CUTOUT", CUTOUT if is_cutout else "")
