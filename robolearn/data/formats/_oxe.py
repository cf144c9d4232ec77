"""What the files of Open X-Embodiment datasets do not say: control rates, and what the numbers of the best-documented ones mean."""

from __future__ import annotations

from hardware.types import ArraySpec
from robolearn.data.formats._reader import vector

# As the datasets' authors filled them into the Open X-Embodiment overview; the same figures are in RDT's dataset_control_freq.json.
_RATES_HZ = {
    **dict.fromkeys(["robo_net", "uiuc_d3field"], 1.0),
    "ucsd_kitchen_dataset": 2.0,
    **dict.fromkeys(["fractal20220817_data", "nyu_door_opening_surprising_effectiveness", "nyu_rot_dataset"], 3.0),
    **dict.fromkeys(["nyu_franka_play_dataset", "ucsd_pick_and_place_dataset", "berkeley_gnm_recon"], 3.0),
    **dict.fromkeys(["bridge", "bridge_dataset", "bridge_orig", "bridge_oxe", "berkeley_autolab_ur5", "berkeley_mvp"], 5.0),
    **dict.fromkeys(["dlr_edan_shared_control", "stanford_robocook", "cmu_play_fusion", "berkeley_gnm_cory_hall", "roboset"], 5.0),
    **dict.fromkeys(["kuka", "jaco_play", "berkeley_cable_routing", "roboturk", "language_table", "columbia_cairlab_pusht_real"], 10.0),
    **dict.fromkeys(["stanford_hydra_dataset", "furniture_bench_dataset", "bc_z", "utokyo_pr2_opening_fridge"], 10.0),
    **dict.fromkeys(["utokyo_pr2_tabletop_manipulation", "utokyo_xarm_pick_and_place", "utokyo_xarm_bimanual"], 10.0),
    **dict.fromkeys(
        ["kaist_nonprehensile", "tokyo_u_lsmo", "dlr_sara_pour", "dlr_sara_grid_clamp", "imperialcollege_sawyer_wrist_cam"], 10.0
    ),
    **dict.fromkeys(["berkeley_fanuc_manipulation", "cmu_stretch", "berkeley_gnm_sac_son", "fmb", "rh20t"], 10.0),
    "asu_table_top": 12.5,
    **dict.fromkeys(["taco_play", "droid", "droid_100"], 15.0),
    **dict.fromkeys(
        ["viola", "stanford_kuka_multimodal_dataset", "austin_buds_dataset", "maniskill_dataset", "austin_sailor_dataset"], 20.0
    ),
    **dict.fromkeys(["austin_sirius_dataset", "iamlab_cmu_pickup_insert", "utaustin_mutex"], 20.0),
    **dict.fromkeys(["toto", "berkeley_rpt", "dobbe", "calvin"], 30.0),
    **dict.fromkeys(["aloha_mobile", "aloha_static"], 50.0),
}

# BridgeData V2 (Walke et al. 2023): WidowX 250 in its base frame; bridge_data_robot, and issue 26 of bridge_data_v2 for the RLDS release,
# whose features.json says otherwise. Rotations are Euler angles; the gripper is 0 closed, 1 open, and absolute in the action.
BRIDGE_RATE_HZ = 5.0
BRIDGE_STATE = vector(("x", "y", "z", "roll", "pitch", "yaw", "gripper"), ("m", "m", "m", "rad", "rad", "rad", "1"))
BRIDGE_ACTION = vector(("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"), ("m", "m", "m", "rad", "rad", "rad", "1"))
_BRIDGE = ("bridge_dataset", "bridge_orig")

# DROID (Khazatsky et al. 2024) documents its top-level action as velocities of joints, which it is not; these two are what was commanded.
_DROID_ACTION = ("steps/action_dict/cartesian_position", "steps/action_dict/gripper_position")


_HUMAN = ("droid", "fractal20220817_data", "jaco_play", "language_table", "roboturk", "taco_play", "viola")


def operator_of(dataset: str, file_path: str) -> str:
    """Who acted: "human", "scripted", "policy" or "unknown". file_path: the one that the episode's metadata names, if any."""
    if dataset in _BRIDGE:
        return "scripted" if "scripted" in file_path else "human"
    return "policy" if dataset == "kuka" else "human" if dataset.startswith(_HUMAN) else "unknown"


def rate_of(dataset: str) -> float | None:
    """Decisions per second [Hz]; None: not known here."""
    return _RATES_HZ.get(dataset.removesuffix("_converted_externally_to_rlds"))


def vector_of(dataset: str, key: str, dim: int) -> ArraySpec | None:
    """Names and units of one vector; None: not documented well enough."""
    if dataset in _BRIDGE and dim == 7:
        return {"steps/action": BRIDGE_ACTION, "steps/observation/state": BRIDGE_STATE}.get(key)
    return None


def action_of(dataset: str) -> tuple[tuple[str, ...] | None, str]:
    """(the features that make the action, in this order; None: whatever is called action, the RobotSpec's action_mode)."""
    if dataset.startswith("droid"):
        return _DROID_ACTION, "ee_pose"
    return None, "ee_delta" if dataset in _BRIDGE else "as_recorded"
