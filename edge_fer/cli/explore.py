"""``edge-fer explore``: a page on this machine that shows a network, and what it sees in a picture."""

from __future__ import annotations

import typer


def explore(
    model: str | None = typer.Argument(None, help="Checkpoint. Default: the shipped one."),
    arch: str | None = typer.Option(None, help="Network of a plain state dict, such as resnet18."),
    layer: str | None = typer.Option(None, help="Layer whose maps Grad-CAM weighs. Default: the last map."),
    port: int = typer.Option(8090, min=0, max=65535, help="Port of the page; 0 takes any that is free."),
    camera_page: int | None = typer.Option(
        None, min=1, max=65535, metavar="PORT", help="Port of `edge-fer run --web`, whose picture can then be taken."
    ),
    detector: str = typer.Option("edge-fer-face", help="Finds the faces of pictures; none: the picture is the face."),
    threads: int = typer.Option(1, min=1, help="Threads of torch."),
) -> None:
    """Serve a page: scores, Grad-CAM with its deletion check, feature maps, and the network in three dimensions.

    Only this machine and only whoever has the printed address can use it. Pictures are kept nowhere.
    """
    import secrets
    import signal
    import threading

    from rich.console import Console

    from edge_fer.cli.explain import open_explainer
    from edge_fer.runtime.sinks.local_server import LocalServer

    console = Console()
    # The port first: loading a network takes a while.
    server = LocalServer(port, option="--port")
    faces = None
    try:
        explainer = open_explainer(model, arch, layer, threads)
        from edge_fer.backends.face_detector import open_face_detector
        from edge_fer.evaluate.explore import Explore

        with console.status("Opening the face detector …") as status:
            faces = open_face_detector(detector, min_face_px=24, on_step=lambda step: status.update(f"{step} …"))
        page, token = Explore(explainer, faces, camera_port=camera_page), secrets.token_urlsafe(24)
        server.start(page.routes(), page.posts(), token=token)
        # In the fragment: browsers send that to nobody, and it stays out of every log.
        console.print(
            f"page: {server.url}#{token} (this machine only; Ctrl-C ends it)", highlight=False, soft_wrap=True
        )
        ended = threading.Event()
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in previous:
            signal.signal(number, lambda *_: ended.set())
        try:
            # In steps: on Windows a wait without end hears no signal.
            while not ended.wait(0.2):
                pass
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    finally:
        server.close()
        if faces is not None and (close := getattr(faces, "close", None)) is not None:
            close()
