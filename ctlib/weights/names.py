"""Other names of parameters, and ours: in earlier checkpoints, and in those of CT-Net's authors."""

import re

# Of format 1, also keys of the configuration. The second is of C3D, R(2+1)D and CSN, whose convolutions were layers of
# a Sequential.
EARLIER = [
    (r"^trunk\b", "backbone"),
    (r"\.(conv2|module)\.(\d)\.([01])\.", r".\1.sub_operations.\2.conv.\3."),
]
# The authors' names inside a replaced block, and ours. x is their first sub-operation and y their second;
# z is the temporal convolution of either, so its number decides.
RELEASED = [
    (r"^module\.", ""),
    (r"^(new_fc|base_model\.fc)\.", "fc."),
    (r"^base_model\.", "backbone."),
    (r"\.conv([13])\.0\.", r".conv\1."),
    (r"\.conv([13])\.1\.", r".bn\1."),
    (r"\.conv2\.conv1_x\.", ".conv2.sub_operations.0.spatial."),
    (r"\.conv2\.conv1_z\.", ".conv2.sub_operations.0.temporal."),
    (r"\.conv2\.conv2_y\.", ".conv2.sub_operations.1.spatial."),
    (r"\.conv2\.conv2_z\.", ".conv2.sub_operations.1.temporal."),
    (r"\.conv2\.fusion\.", ".conv2.pointwise.0."),
    (r"\.conv2\.([stc])x_attention\.", r".conv2.sub_operations.0.excitation.\1."),
    (r"\.conv2\.([stc])y_attention\.", r".conv2.sub_operations.1.excitation.\1."),
    (r"\.excitation\.s\.", ".excitation.spatial."),
    (r"\.excitation\.t\.", ".excitation.temporal."),
    (r"\.excitation\.c\.", ".excitation.channel."),
    (r"(\.excitation\..*)\.fc1\.0\.", r"\1.reduce."),
    (r"(\.excitation\..*)\.fc1\.1\.", r"\1.bn."),
    (r"(\.excitation\..*)\.fc2\.0\.", r"\1.expand."),
]


def renamed(key: str, table: list[tuple[str, str]]) -> str:
    for pattern, name in table:
        key = re.sub(pattern, name, key)
    return key
