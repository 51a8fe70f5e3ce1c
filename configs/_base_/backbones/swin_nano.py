"""A Swin of 32 channels and two blocks per stage for the demos, from scratch."""

embed_dims = 32

backbone = dict(
    _delete_=True,
    type="swin_dense.SwinTransformer",
    embed_dims=embed_dims,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    drop_path_rate=0.0,
)
channels = [embed_dims * 2**stage for stage in range(4)]
