// Take photos in the page if the browser permits it, and otherwise with the device's camera app.

import { $, show } from "./dom.js";

export function offerCamera(taken, failed) {
  const devices = navigator.mediaDevices; // undefined unless the page came by HTTPS or from localhost
  if (!devices?.getUserMedia) {
    show($("capture-file"), matchMedia("(pointer: coarse)").matches);
    return;
  }
  show($("camera"), true);
  const dialog = $("camera-dialog");
  const video = $("video");
  let stream = null;

  function stop() {
    stream?.getTracks().forEach((track) => track.stop());
    video.srcObject = stream = null;
  }

  $("camera").addEventListener("click", async () => {
    $("camera").disabled = true; // while the browser asks for permission
    try {
      stream = await devices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      failed(error.name === "NotFoundError" ? "There is no camera." : "The browser does not permit the use of the camera.");
      return;
    } finally {
      $("camera").disabled = false;
    }
    $("shoot").disabled = true;
    video.srcObject = stream;
    dialog.showModal();
  });
  video.addEventListener("playing", () => ($("shoot").disabled = false));
  $("shoot").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      dialog.close();
      if (blob) taken(new File([blob], "photo.jpg", { type: "image/jpeg" }));
    }, "image/jpeg", 0.92);
  });
  $("camera-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop);
}
