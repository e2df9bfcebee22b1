# What stands in for the official server's image where none can be pulled: the server of the
# embedded default, laid out where the official image has it.
ARG BASE
FROM ${BASE}
USER root
RUN python3 -m ensurepip \
 && site=$(python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
 && server=$site/pytriton/tritonserver \
 && python=$(python3 -c "import sys; print('%d.%d' % sys.version_info[:2])") \
 && mkdir -p /opt/tritonserver/backends/python \
 && ln -s $server/bin $server/caches /opt/tritonserver/ \
 && ln -s $server/backends/python/*.* $server/python_backend_stubs/$python/triton_python_backend_stub \
        /opt/tritonserver/backends/python/ \
 && ln -s $site/nvidia_pytriton.libs /opt/tritonserver/lib
ENV PATH=/opt/tritonserver/bin:$PATH \
    LD_LIBRARY_PATH=/opt/tritonserver/lib
ENTRYPOINT []
CMD []
