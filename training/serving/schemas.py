"""What the OpenAPI description says of bodies, which the routes read themselves, and of errors."""

from typing import Any

DESCRIPTION = (
    "Edits of face pictures by a version of the model registry. Results are synthetic pictures. "
    "Pictures are held in memory for the time of the request, and neither stored nor logged."
)
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_FIELDS = {
    "label": {
        **_TEXTS,
        "description": "Target labels: NAME, NAME=0 for absent, AU12=0.7 for an intensity.",
    },
    "has": {
        **_TEXTS,
        "description": "The picture's own labels, from which the edit starts. Without any, all "
        "labels that are not targets are removed.",
    },
    "intensity": {"type": "number", "description": "Factor on labels that change; 1: training's."},
    "seed": {"type": "integer", "description": "Seed of the latent style code."},
    "frame": {
        **_TEXT,
        "default": "face",
        "description": "face: the largest face found, in the whole picture; centre: the central "
        "square at the model's size, alone; LEFT,TOP,RIGHT,BOTTOM in px: this box.",
    },
}
_FILE = {**_TEXT, "format": "binary"}
TRANSLATE: dict[str, Any] = {
    "description": "As a form, or the picture as the body with the other fields in the query. "
    "The answer's headers X-Model and X-Model-Version name the version, X-Box is what was "
    "edited and X-Faces how many faces were found.",
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in _FIELDS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": _FILE,
                        "reference": {**_FILE, "description": "A picture that gives the style."},
                        **_FIELDS,
                    },
                }
            },
            "image/*": {"schema": _FILE},
        },
    },
}
INFER: dict[str, Any] = {
    "description": "Inputs are tensors (image: FP32 n×3×size×size in [-1, 1]; label and source: "
    "FP32 n×width) or a picture's bytes (picture: BYTES, one text in base64; labels and has: "
    "BYTES, names as in /translate; reference). Parameters: intensity, seed, and with bytes frame.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": _TEXT,
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape", "data"],
                                "properties": {
                                    "name": _TEXT,
                                    "datatype": {**_TEXT, "enum": ["FP32", "FP64", "BYTES"]},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "data": {"type": "array", "items": {}},
                                },
                            },
                        },
                        "parameters": {"type": "object"},
                    },
                }
            }
        },
    },
}
_PROBLEM = {
    "type": "object",
    "properties": dict.fromkeys(("error", "what", "where", "fix"), _TEXT),
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _PROBLEM}}}
    for status, text in {
        400: "A field is wrong; the answer says which, and the fix.",
        401: "The token is missing or wrong.",
        413: "Too many bytes or pixels.",
        422: "No face was found.",
        429: "Too many edits are waiting; Retry-After says when to try again.",
        503: "The server is stopping.",
        504: "Not done in time.",
    }.items()
}
